"""Convolutions that are one matrix product, because their kernel covers one position or the whole input.

They are no linear layers, because :func:`trainer.gan.networks.initialise` gives those other weights.

The last layer of a discriminator, from 16 images of 128 channels, takes 0.13 ms of CPU instead of 0.44, forward and
backward (``docs/log.md``).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear


class PositionConv1d(nn.Conv1d):
    """A kernel of one position, for channels that come last: (n, positions, inputs) to (n, positions, outputs)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs, self.weight.flatten(1), self.bias)


class _Whole(nn.modules.conv._ConvNd):
    """Maps (n, inputs, ...) to (n, outputs)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs.flatten(1), self.weight.flatten(1), self.bias)


class WholeConv2d(_Whole, nn.Conv2d):
    """Takes images (n, inputs, kernel, kernel)."""


class WholeConv1d(_Whole, nn.Conv1d):
    """Takes (n, inputs, kernel), or (n, inputs) if the kernel is 1."""
