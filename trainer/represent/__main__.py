"""``python -m trainer.represent RUN --shards LABELLED``: the command line and the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from shards.common.errors import InputError, require
from shards.common.files import atomic_write
from trainer.cli import check_free, conclude, parse_command

REPORT = "representation.json"  # in the run folder


@dataclass(frozen=True)
class Represent:
    """Measure how well the features of a run's discriminator separate classes that it was not trained on.

    As in the DCGAN paper (arXiv 1511.06434, section 5.1): a linear L2-SVM classifies the outputs of all convolutions,
    max-pooled to 4x4. Raw pixels and the untrained discriminator of the run are measured too, for comparison. Prints a
    table and writes a JSON report. Needs an extra: uv sync --extra represent.

    Example: python -m trainer.represent runs/mnist --shards data/mnist32 --test-shards data/mnist32-test
    """

    run: Positional[Path]
    """Run folder."""
    shards: str
    """Folder or URL of labelled images of the run's image size, as `python -m shards build mnist|lsun|folder` makes
    them. May be the training data of the run."""
    test_shards: str | None = None
    """Folder or URL of other labelled images to test on; if not given, samples of --shards that are not trained on."""
    train: int = 5000
    """Number of samples to train the SVM on. A fit takes 16 bytes a value: 600 MB for 5,000 at 64 features and
    32x32."""
    test: int = 5000
    """Number of samples to test the SVM on."""
    seed: int = 0
    """Seed of the choice of samples and of the SVM."""
    checkpoint: Path | None = None
    """Checkpoint of RUN to use: best, or a name such as step-000000480; if not given, the newest whole one."""
    out: Path | None = None
    """Path of the report; if not given, RUN/representation.json."""
    force: bool = False
    """Replace the report if it exists."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and less than 2**32.")
        for flag, value, least in (("--train", self.train, 10), ("--test", self.test, 1)):
            if value < least:
                raise InputError(f"{flag} is {value}; it must be at least {least}.")


def represent(options: Represent) -> None:
    """Prints a table and writes the report; raises ``InputError`` if it exists or the shards do not suit the run."""
    require("represent", "sklearn")
    path = options.out or options.run / REPORT
    check_free([path], force=options.force)
    # Not at the top: torch and sklearn take seconds to import, which --help and a typo should not wait for.
    from trainer.folder.load_run import load_run
    from trainer.gan.networks import has_batch_norm
    from trainer.represent.probe import features, pixels, read_samples, score, untrained

    loaded = load_run(options.run, options.checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    (train, labels), (test, expected) = read_samples(
        options.shards, options.test_shards, (options.train, options.test), options.seed, loaded.shape
    )
    print(f"{'':24} {'values':>7} {'C':>5}  accuracy on {options.test:,}", flush=True)
    representations: dict[str, Callable[..., Any]] = {
        "raw pixels": pixels,
        "untrained discriminator": partial(features, untrained(loaded)),
        "discriminator": partial(features, loaded.discriminator),
    }
    scores = {}
    for name, extract in representations.items():
        result = score(extract(train), labels, extract(test), expected, options.seed)
        scores[name] = asdict(result)
        print(f"{name:24} {result.values:7,} {result.strength:5g}  {result.accuracy:.2%}", flush=True)
    report = {
        "checkpoint": loaded.checkpoint.name,
        "position": loaded.position,
        "train": options.train,
        "test": options.test,
        "seed": options.seed,
        "representations": scores,
    }
    if has_batch_norm(loaded.discriminator):
        report["batch_norm"] = "eval: running statistics"
    with atomic_write(path) as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    print(f"Written to {path}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(conclude(lambda: represent(parse_command(Represent, "represent")), lower="--train and --test"))
