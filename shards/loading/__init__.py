"""From tars to batches."""
