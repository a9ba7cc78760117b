"""What every pair of networks has in common: its interface, the image sizes, and the initialisation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from torch import nn

EMBEDDED = 64  # values of the embedding of a class, which the generator gets beside a latent
SIZES = (32, 64, 128, 256)  # heights and widths in pixels that every kind of network supports


class Generator(nn.Module, ABC):
    """Maps latents (n, z_dim), and with ``classes`` also labels, to images (n, channels, size, size) in [-1, 1].

    The embedding of an image's class is appended to its latent: a kind of network maps ``inputs`` values, and knows
    nothing of classes.

    In ``train`` mode, a kind without Tanh may exceed this range.
    """

    title: ClassVar[str]  # name of the architecture, for people
    paper: ClassVar[str]

    def __init__(self, z_dim: int, classes: int = 0) -> None:
        super().__init__()
        self.z_dim, self.classes = z_dim, classes
        self.inputs = z_dim + (EMBEDDED if classes else 0)
        self.embedding = nn.Embedding(classes, EMBEDDED) if classes else None

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """``labels`` are classes, int64 (n,), or mixtures of them: the shares (n, classes) of a floating-point type.

        Raises ``ValueError`` if there are labels but no classes, or the other way round.
        """
        check_labels(self.classes, labels)
        if self.embedding is None or labels is None:
            return self.draw(latents)
        mixed = labels.is_floating_point()
        return self.draw(torch.cat([latents, labels @ self.embedding.weight if mixed else self.embedding(labels)], 1))

    @abstractmethod
    def draw(self, inputs: torch.Tensor) -> torch.Tensor:
        """The images of ``inputs`` (n, inputs)."""


class Discriminator(nn.Module, ABC):
    """Maps images (n, channels, size, size), and with ``classes`` also labels, to logits (n,); positive means real.

    The part of a logit that depends on the class is the projection of Miyato and Koyama (arXiv 1802.05637), of the
    outputs of the last hidden layer, which has ``width`` channels or values.
    """

    def __init__(self, width: int, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.projection = Projection(classes, width) if classes else None

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """``labels`` are classes, int64 (n,). Raises ``ValueError`` as the generator."""
        check_labels(self.classes, labels)
        hidden = self.activations(images)[-1]
        logits = self.judge(images, hidden)
        if self.projection is None or labels is None:
            return logits
        return logits + cast("torch.Tensor", self.projection(hidden, labels))

    @abstractmethod
    def judge(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of ``images`` whatever their class; ``hidden`` are the last of their :meth:`activations`."""

    @abstractmethod
    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Output of each hidden layer after its nonlinearity, or of each stage of residual blocks, which ends in a sum.

        (n, channels, height, width) for a convolution or stage, (n, width) for a fully connected layer.
        """


class ScaledConv2d(nn.Conv2d):
    """Convolution whose initial weights have the standard deviation ``gain / sqrt(fan_in)``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, bias: bool, gain: float) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias)
        self.gain = gain


class Projection(nn.Embedding):
    """Maps the outputs of a layer, (n, width) or (n, width, height, width of the image), and labels to logits (n,).

    A logit is the product of the outputs, summed over the image, with a vector of the class.
    """

    def forward(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        summed = hidden.flatten(2).sum(2) if hidden.dim() > 2 else hidden
        logits: torch.Tensor = (super().forward(labels) * summed).sum(1)
        return logits


def check_labels(classes: int, labels: torch.Tensor | None) -> None:
    """Raises ``ValueError`` if a network with ``classes`` gets no ``labels``, or one without gets some."""
    if (labels is not None) != bool(classes):
        raise ValueError(f"a network with {classes} classes gets {'no ' if labels is None else ''}labels")


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
    return any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


LEAKY_GAIN = math.sqrt(2 / (1 + 0.2**2))
"""Keeps the variance through a layer and LeakyReLU 0.2 (He et al., arXiv 1502.01852)."""


def initialise(network: nn.Module, seed: int, bn_mean: float = 1.0) -> None:
    """Initialises ``network`` in place, as a function of ``seed``.

    Convolutions are N(0, 0.02), BatchNorm weights N(bn_mean, 0.02) and BatchNorm biases 0, as in DCGAN. ``bn_mean`` is
    1 in dcgan.torch and 0 in the tutorial, which almost silences the signal at the start. Biases of convolutions and
    all of a linear layer keep PyTorch's own uniform distribution.

    In a network without BatchNorm, N(0, 0.02) would weaken the signal in each layer: with 16 features, the first logits
    would be equal for all images, to 0.002. There, convolutions keep the variance, by ``LEAKY_GAIN`` or their own.

    Embeddings of classes are N(0, 1), as latents are. A projection starts at 0: the first logits depend on no class.
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
        elif isinstance(module, Projection):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, bn_mean, 0.02, generator=generator)
            nn.init.zeros_(module.bias)
