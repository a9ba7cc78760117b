"""The run folder: its files, how they survive a kill, and how a run is loaded from them."""
