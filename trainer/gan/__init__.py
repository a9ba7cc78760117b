"""The mathematics of a GAN: networks, losses, the training step. No files, no processes."""
