"""``python -m trainer.represent RUN --shards LABELLED``: what a run's discriminator has learnt to see."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import tyro
from tyro.conf import DisallowNone, Positional, PositionalMetavarFromFieldName

from shards.errors import InputError
from shards.files import atomic_write
from shards.urls import redact
from trainer.command import conclude, require

if TYPE_CHECKING:
    import numpy as np
    import torch

    from trainer.generate import LoadedRun
    from trainer.networks import Discriminator

Samples: TypeAlias = "tuple[torch.Tensor, np.ndarray]"
"""Images, uint8 (n, height, width, channels), and their labels, int64 (n,)."""

REPORT = "representation.json"


@dataclass(frozen=True)
class Represent:
    """Say how well the features of a run's discriminator tell classes apart that it was never told of.

    As the DCGAN paper (arXiv 1511.06434, section 5.1): the features of all its convolutions, max-pooled to 4x4, under a
    linear L2-SVM; beside them raw pixels and the discriminator that the run began with, under the same. Prints a table
    and writes representation.json into the run folder. Needs the extra: uv sync --extra represent.

    Example: python -m trainer.represent runs/mnist --shards data/mnist32 --test-shards data/mnist32-test
    """

    run: Positional[Path]
    """Folder of the run."""
    shards: str
    """Labelled images of the size that the run was trained on, which may be its own: folder or URL, as `python -m
    shards build mnist|lsun|folder` makes them."""
    test_shards: str | None = None
    """Take the test samples from here. Without, from --shards, other ones than for training."""
    train: int = 5000
    """Samples that the SVM is trained on. A fit takes 16 bytes a value: 600 MB for 5,000 at 64 features and 32x32."""
    test: int = 5000
    """Samples that it is tested on."""
    seed: int = 0
    """Of the choice of samples, and of the SVM."""
    checkpoint: Path | None = None
    """Folder of the checkpoint to take; the run's newest whole one unless given."""

    def __post_init__(self) -> None:
        for flag, value, least in (("--train", self.train, 10), ("--test", self.test, 1), ("--seed", self.seed, 0)):
            if value < least:
                raise InputError(f"{flag} is {value}; it must be at least {least}.")


def run(asked: Represent) -> None:
    """Do what was ``asked``.

    Raises:
        InputError: no run or no checkpoint there, or shards that have no labels, too few samples or another shape.
    """
    require("represent", "sklearn")
    # Not at the top: torch takes seconds to import, and --help or a typo should not wait for it.
    from trainer.generate import load_run
    from trainer.svm import score

    loaded = load_run(asked.run, asked.checkpoint)
    (train, labels), (test, expected) = _samples(asked, loaded.shape)
    print(f"{'':24} {'values':>7} {'C':>5}  right of {len(test):,}", flush=True)
    scores = {}
    for name, see in _representations(loaded).items():
        found = score(see(train), labels, see(test), expected, asked.seed)
        scores[name] = asdict(found)
        print(f"{name:24} {found.values:7,} {found.strength:5g}  {found.accuracy:.2%}", flush=True)
    report = {
        "checkpoint": loaded.checkpoint.name,
        "position": loaded.position,
        "train": len(train),
        "test": len(test),
        "seed": asked.seed,
        "batch_norm": "eval: running statistics",
        "representations": scores,
    }
    path = asked.run / REPORT
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    print(f"Written to {path}.", file=sys.stderr)


def _representations(loaded: LoadedRun) -> dict[str, Callable[[torch.Tensor], np.ndarray]]:
    """By name: from images, uint8 (n, height, width, channels), to what the SVM gets of them."""
    from trainer.features import features, pixels

    return {
        "raw pixels": pixels,
        "untrained discriminator": partial(features, untrained(loaded)),
        "discriminator": partial(features, loaded.discriminator),
    }


def untrained(loaded: LoadedRun) -> Discriminator:
    """The discriminator that the run began with, weight by weight, in ``eval`` mode."""
    from trainer.networks import Discriminator, initialise

    config, (channels, size) = loaded.config, loaded.shape
    network = Discriminator(size, channels, config.model.features_d)
    initialise(network, 2 * config.seed + 1, config.model.bn_init_mean)
    return network.eval()


def _samples(asked: Represent, shape: tuple[int, int]) -> tuple[Samples, Samples]:
    """What to train and to test on: the stream of --shards goes on where the training part ends."""
    if asked.test_shards is None:
        images, labels = _read("--shards", asked.shards, asked.train + asked.test, asked.seed, shape)
        return (images[: asked.train], labels[: asked.train]), (images[asked.train :], labels[asked.train :])
    train = _read("--shards", asked.shards, asked.train, asked.seed, shape)
    return train, _read("--test-shards", asked.test_shards, asked.test, asked.seed, shape)


def _read(flag: str, where: str, count: int, seed: int, shape: tuple[int, int]) -> Samples:
    from shards.dataset import ShardDataset
    from shards.labels import read_labels

    dataset = ShardDataset(where, seed=seed, strict=True)  # a neighbour in place of a broken sample has another label
    with closing(dataset.reader) as reader:
        manifest, shown = dataset.manifest, redact(where)
        if (manifest.channels, manifest.size) != shape:
            raise InputError(
                f"{flag} {shown} holds {manifest.summary}; the run was trained on images of "
                f"{shape[1]}x{shape[1]}x{shape[0]}. Build them in that size."
            )
        if count > manifest.samples:
            raise InputError(
                f"{flag} {shown} holds {manifest.samples:,} samples, and {count:,} are needed. "
                "Give a smaller --train or --test."
            )
        labels = read_labels(reader, 0, count)
        return dataset.__getitems__(range(count)).images, labels


def main() -> int:
    """Parse, run, and turn what went wrong into one line and an exit code."""
    config = (DisallowNone, PositionalMetavarFromFieldName)
    return conclude(lambda: run(tyro.cli(Represent, prog="python -m trainer.represent", config=config)))


if __name__ == "__main__":
    sys.exit(main())
