"""What a discriminator sees in an image: the features of its convolutions, as the DCGAN paper takes them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import adaptive_max_pool2d

from shards.loading.loader import normalise
from trainer.gan.networks import Discriminator

GRID = 4
"""Every layer is max-pooled to so many cells a side (Radford et al., arXiv 1511.06434, section 5.1)."""

BATCH = 250


@torch.no_grad()
def features(discriminator: Discriminator, images: torch.Tensor) -> list[np.ndarray]:
    """Of ``images``, uint8 (n, height, width, channels), for each hidden layer: float32 (n, 16 * its channels).

    After each layer's nonlinearity, in whatever BatchNorm mode the network is in. The last convolution makes the logit,
    which has no grid, and is left out. At 32x32 and 64 features that is 7,168 values an image in all.
    """
    weight = next(discriminator.parameters())
    parts = [_of_batch(discriminator, normalise(part, weight.dtype)) for part in torch.split(images, BATCH)]
    return [np.concatenate(layer) for layer in zip(*parts, strict=True)]


def pixels(images: torch.Tensor) -> list[np.ndarray]:
    """The same ``images`` as they are, as the only layer: float32 (n, channels * height * width) in [-1, 1]."""
    return [normalise(images, torch.float32).flatten(1).numpy()]


def _of_batch(discriminator: Discriminator, images: torch.Tensor) -> list[np.ndarray]:
    layers = [adaptive_max_pool2d(x, GRID) if x.dim() == 4 else x for x in discriminator.activations(images)]
    return [layer.flatten(1).float().numpy() for layer in layers]
