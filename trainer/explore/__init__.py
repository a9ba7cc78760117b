"""Look around in the latent space of a run: numbered sheets, walks, and arithmetic as in the DCGAN paper."""
