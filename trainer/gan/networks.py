"""What every pair of networks has in common: its interface, the image sizes, and the initialisation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

SIZES = (32, 64, 128, 256)  # heights and widths in pixels that every kind of network supports


class Generator(nn.Module, ABC):
    """Maps latents (n, z_dim) to images (n, channels, size, size) in [-1, 1].

    In ``train`` mode, a kind without Tanh may exceed this range.
    """

    title: ClassVar[str]  # name of the architecture, for people
    paper: ClassVar[str]

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        self.z_dim = z_dim

    @abstractmethod
    def forward(self, latents: torch.Tensor) -> torch.Tensor: ...


class Discriminator(nn.Module, ABC):
    """Maps images (n, channels, size, size) to logits (n,); positive means real."""

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Output of each hidden layer after its nonlinearity.

        (n, channels, height, width) for a convolution, (n, width) for a fully connected layer.
        """


class ScaledConv2d(nn.Conv2d):
    """Convolution whose initial weights have the standard deviation ``gain / sqrt(fan_in)``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool, gain: float) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias)
        self.gain = gain


def check_size(size: int) -> None:
    """Raises ``ValueError`` for a size not in ``SIZES``."""
    if size not in SIZES:
        raise ValueError(f"networks exist for sizes {SIZES}, not {size}")


def levels(size: int) -> int:
    """Number of doublings from 4x4 to ``size``: 4 at 64x64. Raises ``ValueError`` as :func:`check_size`."""
    check_size(size)
    return int(math.log2(size)) - 2


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a layer of ``network`` is BatchNorm, of one rank or of all."""
    return any(isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) for module in network.modules())


LEAKY_GAIN = math.sqrt(2 / (1 + 0.2**2))
"""Keeps the variance through a layer and LeakyReLU 0.2 (He et al., arXiv 1502.01852)."""


def initialise(network: nn.Module, seed: int, bn_mean: float = 1.0) -> None:
    """Initialises ``network`` in place, as a function of ``seed``.

    Convolutions are N(0, 0.02), BatchNorm weights N(bn_mean, 0.02) and BatchNorm biases 0, as in DCGAN. ``bn_mean`` is
    1 in dcgan.torch and 0 in the tutorial, which almost silences the signal at the start. Biases of convolutions and
    all of a linear layer keep PyTorch's own uniform distribution.

    In a network without BatchNorm, N(0, 0.02) would weaken the signal in each layer: with 16 features, the first logits
    would be equal for all images, to 0.002. There, convolutions keep the variance, by ``LEAKY_GAIN`` or their own.
    """
    generator, normalised = torch.Generator().manual_seed(seed), has_batch_norm(network)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel()  # for a transposed convolution too: PyTorch counts weight[0] there
            gain = module.gain if isinstance(module, ScaledConv2d) else LEAKY_GAIN
            std = 0.02 if normalised else gain / math.sqrt(fan_in)
            nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, bn_mean, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
