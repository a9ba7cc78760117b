"""What a run is about to do, in a few lines: the header of every run and the whole of ``--dry-run``."""

from __future__ import annotations

import torch

from shards.manifest import Manifest
from trainer.config import Config
from trainer.device import Launch
from trainer.networks import Discriminator, Generator


def describe(config: Config, manifest: Manifest, launch: Launch, precision: str, position: int, steps_left: int) -> str:
    """Data, networks, ranks, precision, length and disk, one line each."""
    with torch.device("meta"):
        generator = Generator(manifest.size, manifest.channels, config.model.z_dim, config.model.features_g)
        discriminator = Discriminator(manifest.size, manifest.channels, config.model.features_d)
    g, d = (sum(p.numel() for p in network.parameters()) for network in (generator, discriminator))
    width = 8 if config.dtype == "float64" else 4
    checkpoint = width * (2 * g + d + 2 * (g + d)) / 1e6  # generator twice: its average; Adam keeps two values a weight
    arithmetic = f"{precision} mixed precision" if precision != "no" else config.dtype
    device = "CPU" if launch.cpu else "GPU"
    begin = f"from image {position:,}" if position else "from the start"
    return "\n".join(
        (
            f"data     {manifest.summary} at {config.data.shards}",
            f"networks generator {g:,} parameters, discriminator {d:,}, latents of {config.model.z_dim}",
            f"compute  {launch.ranks} {device} rank{'s' * (launch.ranks > 1)}, {arithmetic}, "
            f"global batch {config.batch_size}, {config.d_steps} D step{'s' * (config.d_steps > 1)} per G step",
            f"length   {steps_left:,} steps {begin}",
            f"disk     {checkpoint:.0f} MB a checkpoint, at most {checkpoint * (config.checkpoint.keep + 1):.0f} MB, "
            f"in {config.out}",
        )
    )
