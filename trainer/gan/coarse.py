"""A small network on the colours and the rough layout of an image, as a second part of a discriminator.

A discriminator of strided convolutions learns late to tell pale or similar colours apart. After a short training, the
generator therefore paints all backgrounds, and clothes of two similar colours, in their mean colour. This network gets
the image averaged to 8x8 pixels, with the differences between colours enlarged, and first describes each pixel alone.
Discriminators at several scales are those of Wang et al. (arXiv 1711.11585).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.gan.kernels.product_convolution import PositionConv1d, WholeConv1d

SIDE = 8  # cells in a row
CHROMA = 4.0  # enlargement of the differences between colours
HIDDEN, FEATURES = 64, 16  # channels that describe a cell
WIDTH = 128  # channels that describe the image
VERSION = 2  # of the layers, in checkpoints; 1 saw 4x4 cells


class CoarseLogits(nn.Sequential):
    """Maps images (n, channels, size, size) to logits (n,)."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__(
            CellMeans(size // SIDE),
            OpponentColours() if channels == 3 else nn.Identity(),
            PositionConv1d(channels, HIDDEN),
            nn.LeakyReLU(0.2, inplace=True),
            PositionConv1d(HIDDEN, FEATURES),
            nn.LeakyReLU(0.2, inplace=True),
            WholeConv1d(SIDE**2, WIDTH, FEATURES),  # its kernel covers the features of all cells
            nn.LeakyReLU(0.2, inplace=True),
            WholeConv1d(WIDTH, 1, 1),
            nn.Flatten(0),
        )


class CellMeans(nn.Module):
    """Maps images (n, channels, height, width) to the means of their cells (n, cells, channels), row by row.

    Two sums take half the time of ``avg_pool2d`` in ``channels_last`` memory.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(count, height // self.side, self.side, width * channels).sum(2)
        return rows.view(count, -1, self.side, channels).sum(2) / self.side**2


class OpponentColours(nn.Module):
    """Maps RGB (..., 3) to lightness, red against blue, and green against both.

    The map is orthogonal, but enlarges the last two by ``CHROMA``.
    """

    axes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not torch's arithmetic, which imports torch._dynamo on the device meta, where a run counts its weights: 2 s.
        rows = ((3, (1.0, 1.0, 1.0)), (2, (CHROMA, 0.0, -CHROMA)), (6, (CHROMA, -2 * CHROMA, CHROMA)))
        axes = torch.tensor([[value / math.sqrt(square) for value in row] for square, row in rows])
        self.register_buffer("axes", axes, persistent=False)

    def forward(self, colours: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(colours, self.axes.to(colours.dtype))
