"""The DCGAN networks (Radford et al., arXiv 1511.06434), in the widths of the tutorial this project stems from.

At 64x64 with f features the generator goes z -> 16f -> 8f -> 4f -> 2f -> channels and the discriminator channels -> f
-> 2f -> 4f -> 8f -> 1, every convolution 4x4. Another size removes one level or adds one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import nn

from trainer.gan.kernels.transposed_convolution import Doubling
from trainer.gan.networks import Discriminator, Generator, levels


class DcganGenerator(Generator):
    """Transposed convolutions, BatchNorm and ReLU; the last layer is Tanh."""

    title = "DCGAN"
    paper = "arXiv 1511.06434"

    def __init__(self, size: int, channels: int, z_dim: int, features: int) -> None:
        super().__init__(z_dim)
        widths = [features * 2**level for level in range(levels(size), 0, -1)]
        blocks = [_up(nn.ConvTranspose2d(z_dim, widths[0], 4, bias=False))]
        blocks += [_up(Doubling(wide, narrow, bias=False)) for wide, narrow in pairwise(widths)]
        blocks += [nn.Sequential(Doubling(widths[-1], channels, bias=True), nn.Tanh())]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.blocks(latents[:, :, None, None]))


class DcganDiscriminator(Discriminator):
    """Strided convolutions, BatchNorm in all layers but the first and last, and LeakyReLU 0.2."""

    def __init__(self, size: int, channels: int, features: int) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(levels(size))]
        blocks = [nn.Sequential(nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True))]
        blocks += [_down(narrow, wide) for narrow, wide in pairwise(widths)]
        blocks += [nn.Sequential(nn.Conv2d(widths[-1], 1, 4, 2, 0))]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.blocks(images)).flatten()

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for block in list(self.blocks)[:-1]:
            images = block(images)
            outputs.append(images)
        return outputs


def _up(convolution: nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


def _down(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, inplace=True)
    )
