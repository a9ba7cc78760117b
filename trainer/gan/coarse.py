"""A small network on the colours and the rough layout of an image, as a second part of a discriminator.

A discriminator of strided convolutions learns late to tell pale colours apart. After a short training, the generator
therefore paints all backgrounds in their mean colour. This network gets the image averaged to 4x4 pixels, with the
differences between colours enlarged. Discriminators at several scales are those of Wang et al. (arXiv 1711.11585).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.gan.kernels.whole_convolution import WholeConv1d, WholeConv2d

SIDE = 4  # pixels
WIDTH = 128  # channels
CHROMA = 4.0  # enlargement of the differences between colours


class CoarseLogits(nn.Sequential):
    """Maps images (n, channels, size, size) to logits (n,)."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__(
            CellMeans(size // SIDE),
            OpponentColours() if channels == 3 else nn.Identity(),
            WholeConv2d(channels, WIDTH, SIDE),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Identity(),  # checkpoints name the layers by number
            WholeConv1d(WIDTH, WIDTH, 1),  # the strides of 1x1 weights would differ from those of DDP's gradients
            nn.LeakyReLU(0.2, inplace=True),
            WholeConv1d(WIDTH, 1, 1),
            nn.Flatten(0),
        )


class CellMeans(nn.Module):
    """``avg_pool2d(images, side)`` as two sums, which take half the time in ``channels_last`` memory."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count, channels, height, width = images.shape
        rows = images.permute(0, 2, 3, 1).reshape(count, height // self.side, self.side, width * channels).sum(2)
        sums = rows.view(count, height // self.side, width // self.side, self.side, channels).sum(3)
        return sums.permute(0, 3, 1, 2) / self.side**2


class OpponentColours(nn.Module):
    """Maps RGB (n, 3, height, width) to lightness, red against blue, and green against both.

    The map is orthogonal, but enlarges the last two by ``CHROMA``.
    """

    axes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not torch's arithmetic, which imports torch._dynamo on the device meta, where a run counts its weights: 2 s.
        rows = ((3, (1.0, 1.0, 1.0)), (2, (CHROMA, 0.0, -CHROMA)), (6, (CHROMA, -2 * CHROMA, CHROMA)))
        axes = torch.tensor([[value / math.sqrt(square) for value in row] for square, row in rows])
        self.register_buffer("axes", axes[:, :, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.axes.to(images.dtype))
