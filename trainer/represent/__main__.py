"""``python -m trainer.represent RUN --shards LABELLED``: what a run's discriminator has learnt to see."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, PositionalMetavarFromFieldName

from shards.common.errors import InputError
from shards.common.files import atomic_write
from trainer.cli import check_free, conclude, require

if TYPE_CHECKING:
    import numpy as np
    import torch

    from trainer.folder.load_run import LoadedRun
    from trainer.gan.networks import Discriminator

REPORT = "representation.json"


@dataclass(frozen=True)
class Represent:
    """Say how well the features of a run's discriminator tell classes apart that it was never told of.

    As the DCGAN paper (arXiv 1511.06434, section 5.1): the features of all its convolutions, max-pooled to 4x4, under a
    linear L2-SVM; beside them raw pixels and the discriminator that the run began with, under the same. Prints a table
    and writes a report, JSON. Needs the extra: uv sync --extra represent.

    Example: python -m trainer.represent runs/mnist --shards data/mnist32 --test-shards data/mnist32-test
    """

    run: Positional[Path]
    """Folder of the run."""
    shards: str
    """Labelled images of the size that the run was trained on, which may be its own: folder or URL, as `python -m
    shards build mnist|lsun|folder` makes them."""
    test_shards: str | None = None
    """Take the test samples from here, another data set than --shards. Without, from --shards, other ones than for
    training."""
    train: int = 5000
    """Samples that the SVM is trained on. A fit takes 16 bytes a value: 600 MB for 5,000 at 64 features and 32x32."""
    test: int = 5000
    """Samples that it is tested on."""
    seed: int = 0
    """Of the choice of samples, and of the SVM."""
    checkpoint: Path | None = None
    """The checkpoint of RUN to take, such as step-000000480; the newest whole one unless given."""
    out: Path | None = None
    """The report; RUN/representation.json unless given."""
    force: bool = False
    """Replace the report if it is there."""

    def __post_init__(self) -> None:
        if self.seed >= 2**32:
            raise InputError(f"--seed is {self.seed}; it must be less than 2**32.")
        for flag, value, least in (("--train", self.train, 10), ("--test", self.test, 1), ("--seed", self.seed, 0)):
            if value < least:
                raise InputError(f"{flag} is {value}; it must be at least {least}.")


def run(asked: Represent) -> None:
    """Do what was ``asked``.

    Raises:
        InputError: no run or no checkpoint there, a report that is kept, or shards as ``read_samples`` refuses them.
    """
    require("represent", "sklearn")
    path = asked.out or asked.run / REPORT
    if not asked.force:
        check_free([path])
    # Not at the top: torch takes seconds to import, and --help or a typo should not wait for it.
    from trainer.folder.load_run import load_run
    from trainer.represent.labelled import read_samples
    from trainer.represent.svm import score

    loaded = load_run(asked.run, asked.checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = asked.train, asked.test
    (train, labels), (test, expected) = read_samples(asked.shards, asked.test_shards, counts, asked.seed, loaded.shape)
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
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    print(f"Written to {path}.", file=sys.stderr)


def _representations(loaded: LoadedRun) -> dict[str, Callable[[torch.Tensor], list[np.ndarray]]]:
    """By name: from images, uint8 (n, height, width, channels), to what the SVM gets of them."""
    from trainer.represent.features import features, pixels

    return {
        "raw pixels": pixels,
        "untrained discriminator": partial(features, untrained(loaded)),
        "discriminator": partial(features, loaded.discriminator),
    }


def untrained(loaded: LoadedRun) -> Discriminator:
    """The discriminator that the run began with, weight by weight, in ``eval`` mode."""
    from trainer.gan.factory import create_networks
    from trainer.gan.networks import initialise

    config, (channels, size) = loaded.config, loaded.shape
    _, network = create_networks(config.model, size, channels)
    initialise(network, 2 * config.seed + 1, config.model.bn_init_mean)
    return network.eval()


def main() -> int:
    """Parse, run, and turn what went wrong into one line and an exit code."""
    config = (DisallowNone, FlagCreatePairsOff, PositionalMetavarFromFieldName)
    return conclude(lambda: run(tyro.cli(Represent, prog="python -m trainer.represent", config=config)))


if __name__ == "__main__":
    sys.exit(main())
