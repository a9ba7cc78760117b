"""Scores of generated images: ``python -m trainer.evaluate``."""
