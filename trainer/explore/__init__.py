"""``python -m trainer.explore``: grids, walks and arithmetic in the latent space of a run."""
