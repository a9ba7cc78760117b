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


class WholeConv1d(nn.Conv1d):
    """Maps (n, inputs, kernel), or (n, inputs) if the kernel is 1, to (n, outputs)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return linear(inputs.flatten(1), self.weight.flatten(1), self.bias)


class WholeConv2d(nn.Conv2d):
    """Maps images (n, inputs, kernel, kernel) to (n, outputs). Under autocast, it is a convolution."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Autocast casts a weight once for several passes, but a view of it in each. The device meta has no autocast.
        device = images.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            return super().forward(images).flatten(1)
        return linear(images.flatten(1), self.weight.flatten(1), self.bias)
