"""``python -m trainer.status``: the state of runs."""
