"""A small classifier of the data set's own labels, for scores in its features."""

from __future__ import annotations

import hashlib
import sys
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shards.common.errors import InputError
from shards.common.progress import progress_bar
from shards.loading.dataset import ShardDataset
from shards.storage.cache import BlockCache
from trainer.evaluate.cache import keep_tensors, load_tensors
from trainer.gan.optimizer import Adam

WIDTH = 128  # features
TRAINED_ON = 20_000  # images at most
EPOCHS, BATCH, RATE = 3, 100, 1e-3


class Classifier(nn.Module):
    """Three convolutions and two linear layers, for images of 32 pixels or more."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 5, stride=2, padding=2) for before, after in pairwise(widths)
        )
        self.features = nn.Linear(128 * 16, WIDTH)
        self.classes = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Features and, behind them, logits of the classes: float32 (n, WIDTH + classes).

        ``images`` are float32 (n, channels, side, side) from 0 to 255.
        """
        x = images / 127.5 - 1
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        features = F.relu(self.features(F.adaptive_avg_pool2d(x, 4).flatten(1)))
        return torch.cat([features, self.classes(features)], 1)


def load_classifier(dataset: ShardDataset, cache: BlockCache | None) -> Classifier:
    """The classifier of ``dataset``, from ``cache`` if it was trained before. It is trained with seed 0 on
    the first :data:`TRAINED_ON` images in the order of the data set.

    Raises ``InputError`` if the data set has no labels, or a single class.
    """
    name = name_classifier(dataset)
    if weights := load_tensors(cache, name):
        network = Classifier(dataset.manifest.channels, len(weights["classes.bias"]))
        network.load_state_dict(weights)
        return network.eval().requires_grad_(False)
    network = _train(dataset)
    keep_tensors(cache, name, network.state_dict())
    return network


def name_classifier(dataset: ShardDataset) -> str:
    """What the classifier of ``dataset`` is kept as: another architecture or training has another name."""
    with torch.device("meta"):
        layers = str(Classifier(dataset.manifest.channels, 1))
    key: tuple[object, ...] = (dataset.manifest.digest, layers, TRAINED_ON, EPOCHS, BATCH, RATE)
    if dataset.reader.renumbered:
        key += dataset.classes
    return f"classifier-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"


def _train(dataset: ShardDataset) -> Classifier:
    count = min(len(dataset), TRAINED_ON)
    try:
        labels = torch.from_numpy(dataset.reader.labels_at(0, count))
    except InputError as error:
        raise InputError(f"{error} Or leave labels out of --features.") from error
    if labels.min() == labels.max():
        raise InputError("All images have the same label, so --features labels says nothing. Leave it out.")
    print(f"Training a classifier of the labels on {count:,} images.", file=sys.stderr, flush=True)
    images = dataset.__getitems__(range(count)).images.permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Classifier(dataset.manifest.channels, int(labels.max()) + 1)
        optimizer = Adam(network, RATE, (0.9, 0.999))
        with progress_bar(EPOCHS * count, 0, what="classifier") as bar:
            for _ in range(EPOCHS):
                for rows in torch.split(torch.randperm(count), BATCH):
                    logits = network(images[rows].float())[:, WIDTH:]
                    optimizer.zero_grad()
                    torch.autograd.backward(F.cross_entropy(logits, labels[rows]))
                    optimizer.step()
                    bar.update(len(rows))
    return network.eval().requires_grad_(False)
