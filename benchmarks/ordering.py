"""Measures which scores order a run rightly: they have to improve from its 100th step to its 300th and its 900th.

A score that does not tell a generator after 100 steps from one after 900 is of no use to choose a checkpoint. Each run
keeps these three checkpoints, and trainer.evaluate scores them. The same command again continues the study.

Example: uv run --extra scores python -m benchmarks.ordering --steps 100 300 900
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.measure import cli
from benchmarks.study import command
from benchmarks.study.engine import Row, read_study, run_study
from benchmarks.study.plan import Variant

RECIPE = (Variant("recipe", "A longer training gives better images."),)
GROWING = ("precision", "recall", "density", "coverage", "class-coverage", "agreement")
"""Beginnings of the names of scores of which more is better."""
SHARES = "class-"  # begins the names of the shares of single classes, too
TARGETS = {"ms-ssim": "ms-ssim-real"}
"""Scores that are good near another one."""


@dataclass(frozen=True, kw_only=True)
class Arguments(command.Arguments):
    """Scores of three checkpoints of each run."""

    steps: tuple[int, ...] = (100, 300, 900)
    """Steps whose checkpoints are scored, ascending."""
    batch_size: int = 64
    """Real images of a step."""


def badness(scores: dict[str, float]) -> dict[str, float]:
    """``scores`` by name, so that less is better in each: the distance from 1, or from the score of real images."""
    found = {}
    for name, value in scores.items():
        if (name.startswith(SHARES) and name not in GROWING) or name in TARGETS.values():
            continue
        if name in TARGETS:
            found[name] = abs(value - scores[TARGETS[name]])
        else:
            found[name] = 1 - value if name.startswith(GROWING) else value
    return found


def ordered(row: Row) -> dict[str, bool]:
    """Whether each score improves from each mark of the run to the next."""
    marks = [badness(scores) for scores in row.scores]
    return {name: all(before[name] > after[name] for before, after in pairwise(marks)) for name in marks[0]}


def render(rows: Iterable[Row]) -> str:
    """A line for each score: in how many runs it orders rightly, and its values."""
    ended = [row for row in rows if row.error is None]
    right = [ordered(row) for row in ended]
    names = ["score", "right", *(f"seed {row.seed}" for row in ended)]
    lines = [names, ["---"] * len(names)]
    for name in right[0] if right else ():
        values = (", ".join(f"{scores[name]:.4g}" for scores in row.scores) for row in ended)
        lines.append([name, f"{sum(one[name] for one in right)} of {len(right)}", *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def benchmark(arguments: Arguments) -> None:
    """Trains and scores what is missing, and reports."""
    marks = tuple(steps * arguments.batch_size for steps in arguments.steps)
    plan = arguments.plan("ordering", marks, *command.DCGAN, "--batch-size", str(arguments.batch_size))
    run_study(plan, RECIPE, range(arguments.seeds), arguments.jobs)
    rows = read_study(plan, RECIPE)
    command.report(arguments, plan, rows, render(rows))


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
