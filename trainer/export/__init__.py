"""``python -m trainer.export``: the generator of a run for other programs."""
