"""The run folder: what survives a kill, and how it is read again."""
