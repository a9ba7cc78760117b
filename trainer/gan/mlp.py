"""The fully connected ("vanilla") networks that the DCGAN tutorial starts from (Goodfellow et al., arXiv 1406.2661).

The generator has two hidden layers of 16f ReLU units and Tanh outputs. The discriminator has two hidden layers of 4f
maxout units with five pieces each (Goodfellow et al., arXiv 1302.4389). At f = 75 (and 60 for the discriminator) these
are the 1,200 and 240 units that the authors trained on MNIST. Dropout is left out: a resumed run could not repeat it.
"""

from __future__ import annotations

import torch
from torch import nn

from trainer.gan.networks import Discriminator, Generator, check_size

PIECES = 5  # linear pieces of a maxout unit


class MlpGenerator(Generator):
    """Three fully connected layers; the last one gives every value of the image."""

    title = "Fully connected"
    paper = "arXiv 1406.2661"

    def __init__(self, size: int, channels: int, z_dim: int, features: int, *, classes: int = 0) -> None:
        super().__init__(z_dim, classes)
        check_size(size)
        width = 16 * features
        self.layers = nn.Sequential(
            nn.Linear(self.inputs, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, channels * size * size),
            nn.Tanh(),
            nn.Unflatten(1, (channels, size, size)),
        )

    def draw(self, inputs: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self.layers(inputs)
        return images


class MlpDiscriminator(Discriminator):
    """Two maxout layers and a linear one, on the image's values as one vector."""

    def __init__(self, size: int, channels: int, features: int, *, classes: int = 0) -> None:
        check_size(size)
        width = 4 * features
        super().__init__(width, classes)
        self.hidden = nn.ModuleList([Maxout(channels * size * size, width), Maxout(width, width)])
        self.logit = nn.Linear(width, 1)

    def judge(self, images: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        logits: torch.Tensor = self.logit(hidden)
        return logits.flatten()

    def activations(self, images: torch.Tensor) -> list[torch.Tensor]:
        outputs = [images.flatten(1)]
        for layer in self.hidden:
            outputs.append(layer(outputs[-1]))
        return outputs[1:]


class Maxout(nn.Module):
    """Maps (n, inputs) to (n, outputs), each output the largest of ``PIECES`` linear functions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pieces = nn.Linear(inputs, outputs * PIECES)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        pieces: torch.Tensor = self.pieces(values)
        return pieces.view(len(values), -1, PIECES).amax(2)
