"""Residual networks without normalisation, after the ideas of R3GAN (Huang et al., arXiv 2501.05441).

Both networks work on 4x4 to size x size pixels, with two blocks at each size. Widths are f channels at the full size,
twice as many at each halving, and at most 8f. Blocks start as the identity, and the initial weights between them keep
the scale of the signal. So nothing has to be normalised, and gradient penalties are exact. The networks need the
relativistic loss with both penalties. There is no Tanh: images are clamped to [-1, 1] in ``eval`` mode only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from trainer.gan.coarse import CoarseLogits
from trainer.gan.networks import Discriminator, Generator, ScaledConv2d, levels

BLOCKS = 2  # at each size
WIDEST = 8  # times f channels


class ResidualGenerator(Generator):
    """A linear map to 4x4 pixels, then blocks and doublings; a 1x1 convolution makes the colours."""

    title = "Residual"
    paper = "arXiv 2501.05441"

    def __init__(self, size: int, channels: int, z_dim: int, features: int, *, classes: int = 0) -> None:
        super().__init__(z_dim, classes)
        widths = _widths(size, features)[::-1]
        self.basis = nn.Sequential(nn.Linear(self.inputs, 16 * widths[0]), nn.Unflatten(1, (widths[0], 4, 4)))
        stages = [_stage(widths[0])]
        stages += [
            nn.Sequential(_project(wide, narrow), Doubling(), *_stage(narrow)) for wide, narrow in pairwise(widths)
        ]
        self.stages = nn.Sequential(*stages)
        self.colours = _project(widths[-1], channels, bias=True)

    def draw(self, inputs: torch.Tensor) -> torch.Tensor:
        images = cast("torch.Tensor", self.colours(self.stages(self.basis(inputs))))
        return images if self.training else images.clamp(-1, 1)


class ResidualDiscriminator(Discriminator):
    """The generator backwards: blocks and halvings, then 4x4 weights of each channel and a linear layer.

    ``coarse`` adds the logits of ``coarse.py``.
    """

    def __init__(self, size: int, channels: int, features: int, *, coarse: bool = False, classes: int = 0) -> None:
        widths = _widths(size, features)
        super().__init__(widths[-1], classes)
        first = nn.Sequential(_project(channels, widths[0], bias=True), *_stage(widths[0]))
        downs = [nn.Sequential(Halving(), _project(narrow, wide), *_stage(wide)) for narrow, wide in pairwise(widths)]
        self.stages = nn.Sequential(first, *downs)
        self.head = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 4, groups=widths[-1], bias=False), nn.Flatten(), nn.Linear(widths[-1], 1)
        )
        self.coarse = CoarseLogits(size, channels) if coarse else None

    def judge(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        logits = cast("torch.Tensor", self.head(hidden)).flatten()
        return logits if self.coarse is None else logits + self.coarse(images)

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        outputs = []
        for stage in self.stages:
            images = stage(images)
            outputs.append(images)
        return outputs


class Block(nn.Module):
    """Adds to (n, channels, height, width) what 1x1, 3x3 and 1x1 convolutions make of them.

    The last convolution starts at 0 (Zhang et al., arXiv 1901.09321).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            ScaledConv2d(width, width, 1, bias=False, gain=0),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + cast("torch.Tensor", self.layers(images))


class Halving(nn.Module):
    """Half the height and width, by the filter [1, 2, 1] / 4 in both directions."""

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = (0.25, 0.5, 0.25)
        self.register_buffer("kernel", torch.tensor([[[[row * column for column in taps] for row in taps]]]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        channels = images.shape[1]
        kernel = self.kernel.expand(channels, -1, -1, -1)
        return F.conv2d(images, kernel, stride=2, padding=1, groups=channels)


class Doubling(Halving):
    """Twice the height and width: each new pixel is the mean of its one, two or four neighbours."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        channels = images.shape[1]
        kernel = 4 * self.kernel.expand(channels, -1, -1, -1)
        return F.conv_transpose2d(images, kernel, stride=2, padding=1, output_padding=1, groups=channels)


def _widths(size: int, features: int) -> list[int]:
    """Channels at each size, the full one first."""
    return [features * min(2**level, WIDEST) for level in range(levels(size) + 1)]


def _stage(width: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(BLOCKS)))


def _project(inputs: int, outputs: int, *, bias: bool = False) -> ScaledConv2d:
    return ScaledConv2d(inputs, outputs, 1, bias=bias, gain=1)
