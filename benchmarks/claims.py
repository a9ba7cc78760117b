"""Tests what the DCGAN paper and its tutorials claim: trains the recipe and ten changes of it, and scores them all.

Every variant sees the same number of real images, with the same seeds, networks of the same widths, latents and order
of images. Results, logs and one grid of samples for each variant are kept in the folder of the study. The same command
again continues it, --only and --seeds do a part. docs/claims.md shows the results.

Example: uv run --extra scores python -m benchmarks.claims --only recipe pooling --seeds 1 --images 6400
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from benchmarks.measure import cli
from benchmarks.rivals.ablations import (
    NO_BATCH_NORM,
    POOLING,
    with_default_initialisation,
    with_pooling,
    without_batch_norm,
)
from benchmarks.study import command
from benchmarks.study.engine import read_study, run_study
from benchmarks.study.plan import Variant, choose
from benchmarks.study.table import render

CLAIMS = (
    Variant("recipe", "The recipe of DCGAN trains stably."),
    Variant(
        "no-batch-norm",
        "BatchNorm in both networks is needed: it helps with poor initialisation and keeps G from collapsing.",
        kind=NO_BATCH_NORM,
        prepare=without_batch_norm,
    ),
    Variant(
        "pooling",
        "Strided convolutions are better than pooling and upsampling, because the network learns its own.",
        kind=POOLING,
        prepare=with_pooling,
    ),
    Variant("fully-connected", "Convolutions are better than fully connected layers.", ("--model.kind", "mlp")),
    Variant(
        "default-init",
        "Weights start at N(0, 0.02), rather than PyTorch's default.",
        prepare=with_default_initialisation,
    ),
    Variant("bn-around-0", "BatchNorm's weights start around 1, not 0.", ("--model.bn-init-mean", "0")),
    Variant("rate-1e-3", "A rate of 1e-3 is too high.", ("--optim.lr-g", "1e-3", "--optim.lr-d", "1e-3")),
    Variant("beta1-0.9", "A beta1 of 0.9 makes the training oscillate.", ("--optim.beta1", "0.9")),
    Variant("minimax", "The minimax loss gives G no gradient while D is ahead.", ("--loss", "minimax")),
    Variant("k-2", "One step of D for each step of G is enough: two cost half of the steps.", ("--d-steps", "2")),
    Variant("k-5", "The same with five.", ("--d-steps", "5")),
)


@dataclass(frozen=True, kw_only=True)
class Arguments(command.Arguments):
    """Scores of the recipe and of its changes."""

    only: tuple[str, ...] = ()
    """Variants to train; by default all."""
    images: int = 32_000
    """Real images that the discriminator of each run sees."""
    batch_size: int = 64
    """Those of a step."""


def benchmark(arguments: Arguments) -> None:
    """Trains and scores what is missing, and reports all results."""
    chosen = choose(CLAIMS, arguments.only)
    plan = arguments.plan("claims", (arguments.images,), *command.DCGAN, "--batch-size", str(arguments.batch_size))
    run_study(plan, chosen, range(arguments.seeds), arguments.jobs)
    rows = read_study(plan, CLAIMS)
    command.report(arguments, plan, rows, render(rows))


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
