"""A linear probe: how well a linear SVM separates labelled images by the features of a discriminator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch.nn.functional import adaptive_max_pool2d

from shards.common.errors import InputError
from shards.common.urls import redact
from shards.loading.dataset import ShardDataset
from shards.loading.loader import normalise
from trainer.folder.load_run import LoadedRun
from trainer.gan.factory import create_discriminator
from trainer.gan.networks import Discriminator, initialise

GRID = 4  # cells per side to which every convolution is max-pooled (Radford et al., arXiv 1511.06434, section 5.1)
BATCH = 250

STRENGTHS = (0.1, 1.0, 10.0)
"""Values of C to choose from. On MNIST one of the last two is best; 100 takes thousands of iterations for nothing."""

Samples: TypeAlias = tuple[torch.Tensor, np.ndarray]  # images, uint8 (n, height, width, channels); labels, int64 (n,)


@dataclass(frozen=True)
class Score:
    """Result of a linear SVM on a representation."""

    accuracy: float  # on the test samples, in [0, 1]
    strength: float  # C
    values: int  # of one sample


def read_samples(
    shards: str, test_shards: str | None, counts: tuple[int, int], seed: int, shape: tuple[int, int]
) -> tuple[Samples, Samples]:
    """Reads ``counts`` samples for training and for testing, of (channels, size) ``shape``.

    Test samples come from ``test_shards``, or else from ``shards`` behind the training samples. Warns of images that
    are in both parts. Raises ``InputError`` if the shards do not suit, or hold a single class to train on.
    """
    train, test = counts
    if test_shards is None:
        (images, labels), _ = _read("--shards", shards, train + test, seed, shape)
        fitted, tested = (images[:train], labels[:train]), (images[train:], labels[train:])
    else:
        fitted, digest = _read("--shards", shards, train, seed, shape)
        tested, other_digest = _read("--test-shards", test_shards, test, seed, shape)
        if digest == other_digest:
            raise InputError(
                f"--test-shards {redact(test_shards)} holds the samples of --shards. Leave --test-shards away to test "
                "on samples of --shards that are not trained on."
            )
    if len(np.unique(fitted[1])) < 2:
        raise InputError(
            f"All {train:,} training samples of --shards {redact(shards)} are of class {fitted[1][0]}; at least "
            "two classes are needed. Raise --train, or give other shards."
        )
    known = {image.tobytes() for image in fitted[0].numpy()}
    repeated = sum(image.tobytes() in known for image in tested[0].numpy())
    if repeated:
        warnings.warn(f"{repeated:,} of {test:,} test images are training images too.", stacklevel=2)
    return fitted, tested


def _read(flag: str, where: str, count: int, seed: int, shape: tuple[int, int]) -> tuple[Samples, str]:
    """The first ``count`` samples in the order of ``seed``, and the digest of the data set."""
    # Strict: a broken sample would be replaced by its neighbour, which has another label.
    dataset = ShardDataset(where, seed=seed, strict=True)
    with closing(dataset.reader):
        manifest = dataset.manifest
        if (manifest.channels, manifest.size) != shape:
            raise InputError(
                f"{flag} {redact(where)} holds {manifest.summary}; the run was trained on images of "
                f"{shape[1]}x{shape[1]}x{shape[0]}. Build them in that size."
            )
        if count > manifest.samples:
            raise InputError(
                f"{flag} {redact(where)} holds {manifest.samples:,} samples, and {count:,} are needed. "
                "Give a smaller --train or --test."
            )
        labels = dataset.reader.labels_at(0, count)
        return (dataset.__getitems__(range(count)).images, labels), manifest.digest


def untrained(loaded: LoadedRun) -> Discriminator:
    """The discriminator at step 0 of the run, with the same weights, in ``eval`` mode."""
    config, (channels, size) = loaded.config, loaded.shape
    network = create_discriminator(config.model, size, channels)
    initialise(network, 2 * config.seed + 1, config.model.bn_init_mean)
    return network.eval()


@torch.no_grad()
def features(discriminator: Discriminator, images: torch.Tensor) -> list[np.ndarray]:
    """Activations of each hidden layer for ``images``, uint8 (n, height, width, channels): float32 (n, values).

    Convolutions are max-pooled to 4x4: 7,168 values in all at 32x32 and 64 features.
    """
    weight = next(discriminator.parameters())
    batches = []
    for part in torch.split(images, BATCH):
        layers = discriminator.activations(normalise(part, weight.dtype))
        pooled = [adaptive_max_pool2d(layer, GRID) if layer.dim() == 4 else layer for layer in layers]
        batches.append([layer.flatten(1).float().numpy() for layer in pooled])
    return [np.concatenate(layer) for layer in zip(*batches, strict=True)]


def pixels(images: torch.Tensor) -> list[np.ndarray]:
    """The values of ``images`` themselves as the only layer: float32 (n, channels * height * width) in [-1, 1]."""
    return [normalise(images, torch.float32).flatten(1).numpy()]


def score(
    train: Sequence[np.ndarray], labels: np.ndarray, test: Sequence[np.ndarray], expected: np.ndarray, seed: int
) -> Score:
    """Fits a linear L2-SVM to the layers ``train``, each float (n, values), with ``labels``, int64 (n,), and scores it
    on ``test`` with the labels ``expected``.

    About every fifth training sample of a class validates C; the final fit uses all of them. A fit to 2,000 samples of
    7,168 values and ten classes takes 5 s on one core; in the primal it would take 11 s.
    """
    from sklearn.model_selection import GridSearchCV, PredefinedSplit  # takes a second, which only the fit needs
    from sklearn.svm import LinearSVC

    scaled = []
    for layer, other in zip(train, test, strict=True):
        # One factor a layer, to a mean squared length of 1 in all: the same values of C suit all representations, and
        # every layer counts. The first layer of a trained discriminator is a thirtieth as long as its last.
        mean = layer.mean(0)
        length = max(np.square(layer - mean).sum(1).mean() * len(train), np.finfo(np.float32).tiny)  # may be constant
        scaled.append([(layer - mean) * length**-0.5, (other - mean) * length**-0.5])
    samples, tests = (np.concatenate(part, 1) for part in zip(*scaled, strict=True))
    fold = np.full(len(labels), -1)
    # The first and the last sample in the order of labels are always fitted, so there are two classes to fit.
    fold[np.argsort(labels, kind="stable")[1:-1:5]] = 0
    svm = LinearSVC(loss="squared_hinge", dual=True, max_iter=5000, random_state=seed)
    search = GridSearchCV(svm, {"C": STRENGTHS}, cv=PredefinedSplit(fold)).fit(samples, labels)
    return Score(float(search.score(tests, expected)), search.best_params_["C"], samples.shape[1])
