"""``python -m trainer.represent``: how well the discriminator's features separate classes."""
