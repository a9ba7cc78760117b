"""The DCGAN networks (Radford et al., arXiv 1511.06434), in the widths of the tutorial this project stems from.

At 64x64 with f features the generator goes z -> 16f -> 8f -> 4f -> 2f -> channels and the discriminator channels -> f
-> 2f -> 4f -> 8f -> 1, every convolution 4x4. Another size removes a level or adds some, of at most 32f channels. Two
parts have alternatives: the normalisation of the discriminator, and the upsampling of the generator.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import nn

from trainer.config import Normalisation, Upsampling
from trainer.gan.coarse import CoarseLogits
from trainer.gan.kernels.latent_convolution import LatentConvolution
from trainer.gan.kernels.nearest_convolution import NearestDoubling
from trainer.gan.kernels.product_convolution import WholeConv2d
from trainer.gan.kernels.strided_convolution import Halving
from trainer.gan.kernels.transposed_convolution import Doubling
from trainer.gan.networks import Discriminator, Generator, levels

WIDEST = 32
"""Largest multiple of the features. At 256x256, the next one would take two thirds more weights for a layer at 4x4."""
UPSAMPLINGS = {"transposed": Doubling, "nearest": NearestDoubling}


class DcganGenerator(Generator):
    """Upsampling convolutions, BatchNorm and ReLU; the last layer is Tanh."""

    title = "DCGAN"
    paper = "arXiv 1511.06434"

    def __init__(
        self,
        size: int,
        channels: int,
        z_dim: int,
        features: int,
        upsampling: Upsampling = "transposed",
        *,
        classes: int = 0,
    ) -> None:
        super().__init__(z_dim, classes)
        doubling = UPSAMPLINGS[upsampling]
        widths = [features * min(2**level, WIDEST) for level in range(levels(size), 0, -1)]
        blocks = [_up(LatentConvolution(self.inputs, widths[0]), widths[0])]
        blocks += [_up(doubling(wide, narrow, bias=False), narrow) for wide, narrow in pairwise(widths)]
        blocks += [nn.Sequential(doubling(widths[-1], channels, bias=True), nn.Tanh())]
        self.blocks = nn.Sequential(*blocks)

    def draw(self, inputs: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", self.blocks(inputs[:, :, None, None]))


class DcganDiscriminator(Discriminator):
    """Strided convolutions and LeakyReLU 0.2.

    ``batch`` is BatchNorm in all layers but the first and last. Convolutions without it have a bias. ``coarse`` adds
    the logits of ``coarse.py``.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        features: int,
        norm: Normalisation = "batch",
        *,
        coarse: bool = False,
        classes: int = 0,
    ) -> None:
        widths = [features * 2**level for level in range(levels(size))]
        super().__init__(widths[-1], classes)
        blocks = [nn.Sequential(nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True))]
        for narrow, wide in pairwise(widths):
            layers: list[nn.Module] = [Halving(narrow, wide, bias=norm == "none")]
            if norm == "batch":
                layers.append(nn.BatchNorm2d(wide))
            blocks.append(nn.Sequential(*layers, nn.LeakyReLU(0.2, inplace=True)))
        blocks += [nn.Sequential(WholeConv2d(widths[-1], 1, 4, 2))]
        self.blocks = nn.Sequential(*blocks)
        self.coarse = CoarseLogits(size, channels) if coarse else None

    def judge(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        logits = cast("torch.Tensor", self.blocks[-1](hidden)).flatten()
        return logits if self.coarse is None else logits + self.coarse(images)

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for block in list(self.blocks)[:-1]:
            images = block(images)
            outputs.append(images)
        return outputs


def _up(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
