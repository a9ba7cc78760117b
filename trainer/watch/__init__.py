"""Who hears of a run: the terminal, metrics.jsonl, Weights & Biases, TensorBoard."""
