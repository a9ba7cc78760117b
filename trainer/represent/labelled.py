"""Labelled images out of shards: some to train a classifier on, and others to test it on."""

from __future__ import annotations

import warnings
from contextlib import closing
from typing import TypeAlias

import numpy as np
import torch

from shards.common.errors import InputError
from shards.common.urls import redact
from shards.loading.dataset import ShardDataset
from shards.loading.labels import read_labels

Samples: TypeAlias = tuple[torch.Tensor, np.ndarray]
"""Images, uint8 (n, height, width, channels), and their labels, int64 (n,)."""


def read_samples(
    shards: str, test_shards: str | None, counts: tuple[int, int], seed: int, shape: tuple[int, int]
) -> tuple[Samples, Samples]:
    """``counts[0]`` samples of ``shards`` to train on, and ``counts[1]`` to test on, of (channels, size) ``shape``.

    The latter from ``test_shards``; without, from where the stream of ``shards`` goes on. Warns of images that are in
    both.

    Raises:
        InputError: no labels, too few samples, another shape, one data set for both, or a single class to train on.
    """
    train, test = counts
    first = _open("--shards", shards, train if test_shards else train + test, seed, shape)
    with closing(first.reader):
        if test_shards is None:
            images, labels = _read(first, train + test)
            found = (images[:train], labels[:train]), (images[train:], labels[train:])
        else:
            second = _open("--test-shards", test_shards, test, seed, shape)
            with closing(second.reader):
                if first.manifest.digest == second.manifest.digest:
                    raise InputError(
                        f"--test-shards {redact(test_shards)} holds the samples of --shards. Leave --test-shards away: "
                        "what is tested on are then other samples than those trained on."
                    )
                found = _read(first, train), _read(second, test)
    _check(shards, *found)
    return found


def _open(flag: str, where: str, count: int, seed: int, shape: tuple[int, int]) -> ShardDataset:
    dataset = ShardDataset(where, seed=seed, strict=True)  # a neighbour in place of a broken sample has another label
    manifest, shown, wrong = dataset.manifest, redact(where), ""
    if (manifest.channels, manifest.size) != shape:
        wrong = (
            f"{flag} {shown} holds {manifest.summary}; the run was trained on images of "
            f"{shape[1]}x{shape[1]}x{shape[0]}. Build them in that size."
        )
    elif count > manifest.samples:
        wrong = (
            f"{flag} {shown} holds {manifest.samples:,} samples, and {count:,} are needed. "
            "Give a smaller --train or --test."
        )
    if wrong:
        dataset.reader.close()
        raise InputError(wrong)
    return dataset


def _read(dataset: ShardDataset, count: int) -> Samples:
    labels = read_labels(dataset.reader, 0, count)
    return dataset.__getitems__(range(count)).images, labels


def _check(shards: str, train: Samples, test: Samples) -> None:
    if len(np.unique(train[1])) < 2:
        raise InputError(
            f"All {len(train[1]):,} training samples of --shards {redact(shards)} are of class {train[1][0]}; it takes "
            "two classes to tell apart. Raise --train, or give other shards."
        )
    known = {image.tobytes() for image in train[0].numpy()}
    both = sum(image.tobytes() in known for image in test[0].numpy())
    if both:
        warnings.warn(f"{both:,} of {len(test[0]):,} test images are training images too.", stacklevel=3)
