"""``python -m trainer.export``: a run's generator for other programs."""
