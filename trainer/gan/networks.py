"""The DCGAN networks (Radford et al., arXiv 1511.06434), in the widths of the tutorial this project stems from.

At 64x64 with f features the generator goes z -> 16f -> 8f -> 4f -> 2f -> channels and the discriminator channels -> f
-> 2f -> 4f -> 8f -> 1, every convolution 4x4. Another size takes one level away or adds one.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from trainer.gan.kernels.transposed_convolution import Doubling

SIZES = (32, 64, 128)


class Generator(nn.Module):
    """Latents (n, z_dim) to images (n, channels, size, size) in [-1, 1]."""

    def __init__(self, size: int, channels: int, z_dim: int, features: int) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(levels(size), 0, -1)]
        blocks = [_up(nn.ConvTranspose2d(z_dim, widths[0], 4, bias=False))]
        blocks += [_up(Doubling(wide, narrow, bias=False)) for wide, narrow in pairwise(widths)]
        blocks += [nn.Sequential(Doubling(widths[-1], channels, bias=True), nn.Tanh())]
        self.blocks = nn.Sequential(*blocks)
        self.z_dim = z_dim

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.blocks(latents[:, :, None, None]))


class Discriminator(nn.Module):
    """Images (n, channels, size, size) to logits (n,): positive means real."""

    def __init__(self, size: int, channels: int, features: int) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(levels(size))]
        blocks = [nn.Sequential(nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True))]
        blocks += [_down(narrow, wide) for narrow, wide in pairwise(widths)]
        blocks += [nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 2, 0))]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.blocks(images)).flatten()


def levels(size: int) -> int:
    """How many doublings lead from 4x4 to ``size``: 4 at 64x64. Raises ``ValueError`` for a size not in ``SIZES``."""
    if size not in SIZES:
        raise ValueError(f"networks exist for sizes {SIZES}, not {size}")
    return int(math.log2(size)) - 2


def initialise(network: nn.Module, seed: int, bn_mean: float = 1.0) -> None:
    """DCGAN's initialisation, in place: convolutions N(0, 0.02), BatchNorm weights N(bn_mean, 0.02), BatchNorm biases
    0.

    Biases of convolutions keep PyTorch's uniform initialisation, drawn anew. ``bn_mean`` 1 is dcgan.torch's; 0 is what
    the tutorial writes, which all but silences the signal at the start.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02, generator=generator)
            if module.bias is not None:
                fan_in = module.weight[0].numel()  # for a transposed convolution too: PyTorch counts weight[0] there
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, bn_mean, 0.02, generator=generator)
            nn.init.zeros_(module.bias)


def _up(convolution: nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


def _down(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, inplace=True)
    )
