"""Reports the progress of a run to the terminal, metrics.jsonl, Weights & Biases and TensorBoard."""
