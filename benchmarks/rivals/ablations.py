"""Networks and initialisations that DCGAN's authors advise against. They are not in the product, only in studies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest.mock import patch

import torch
from torch import nn

import trainer.gan.networks
from trainer.config import Model
from trainer.gan import factory, state
from trainer.gan.dcgan import DcganDiscriminator, DcganGenerator
from trainer.gan.networks import Discriminator, Generator, levels

NO_BATCH_NORM, POOLING = "dcgan-no-batch-norm", "dcgan-pooling"


class Shift(nn.Module):
    """Adds a learned value to each channel of (n, channels, height, width): BatchNorm's bias alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.bias


def remove_batch_norm(network: nn.Module) -> None:
    """Replaces each BatchNorm of ``network`` by its bias."""
    for block in network.modules():
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                setattr(block, name, Shift(layer.num_features))


class PoolingDiscriminator(DcganDiscriminator):
    """DCGAN's discriminator with 3x3 convolutions and max pooling in place of its strided convolutions."""

    def __init__(self, size: int, channels: int, features: int, *, classes: int = 0) -> None:
        super().__init__(size, channels, features, classes=classes)
        widths = [features * 2**level for level in range(levels(size))]
        blocks = [nn.Sequential(_same(channels, widths[0], bias=True), nn.LeakyReLU(0.2), nn.MaxPool2d(2))]
        blocks += [
            nn.Sequential(_same(narrow, wide), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2), nn.MaxPool2d(2))
            for narrow, wide in pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks, self.blocks[-1])


def _same(before: int, after: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, 1, 1, bias=bias)


def _plain_generator(model: Model, size: int, channels: int, classes: int) -> Generator:
    generator = DcganGenerator(size, channels, model.z_dim, model.features_g, classes=classes)
    remove_batch_norm(generator)
    return generator


def _plain_discriminator(model: Model, size: int, channels: int, classes: int) -> Discriminator:
    discriminator = DcganDiscriminator(size, channels, model.features_d, classes=classes)
    remove_batch_norm(discriminator)
    return discriminator


def _upsampling_generator(model: Model, size: int, channels: int, classes: int) -> Generator:
    return DcganGenerator(size, channels, model.z_dim, model.features_g, "nearest", classes=classes)


def _pooling_discriminator(model: Model, size: int, channels: int, classes: int) -> Discriminator:
    return PoolingDiscriminator(size, channels, model.features_d, classes=classes)


@contextmanager
def without_batch_norm() -> Iterator[None]:
    """In the block, the kind ``NO_BATCH_NORM`` exists: neither network has BatchNorm. Its weights start at N(0, 0.02),
    as DCGAN's; by default, the product gives networks without BatchNorm larger ones.
    """
    with (
        patch.object(trainer.gan.networks, "has_batch_norm", lambda _network: True),  # only ``initialise`` looks there
        patch.dict(factory.GENERATORS, {NO_BATCH_NORM: _plain_generator}),
        patch.dict(factory.DISCRIMINATORS, {NO_BATCH_NORM: _plain_discriminator}),
    ):
        yield


@contextmanager
def with_pooling() -> Iterator[None]:
    """In the block, the kind ``POOLING`` exists: no stride but that of the last layer, which reads the whole of 4x4."""
    with (
        patch.dict(factory.GENERATORS, {POOLING: _upsampling_generator}),
        patch.dict(factory.DISCRIMINATORS, {POOLING: _pooling_discriminator}),
    ):
        yield


@contextmanager
def with_default_initialisation() -> Iterator[None]:
    """In the block, runs start from PyTorch's own initialisation of each layer, as a function of their seed."""

    def initialise(network: nn.Module, seed: int, _bn_mean: float = 1.0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
                    module.reset_parameters()

    with patch.object(state, "initialise", initialise):
        yield
