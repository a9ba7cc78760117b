"""``python -m trainer.represent``: how well the features of a discriminator separate classes."""
