"""Trains and scores one variant with one seed, by the entries of the trainer and of its evaluator."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from multiprocessing import connection, parent_process
from threading import Thread
from typing import TYPE_CHECKING

from benchmarks.study.plan import Plan, Variant
from shards.common.command import conclude
from shards.common.errors import InputError

if TYPE_CHECKING:
    from trainer.config import Config

NEEDED = ["torch", "accelerate", "trainer.train.start", "trainer.evaluate.__main__", "trainer.evaluate.evaluation"]
"""Modules that take seconds to import."""
ORPHANED = 1  # exit code


def run_job(plan: Plan, variant: Variant, seed: int) -> None:
    """The whole of a process: :func:`train_and_score`, with its output in the log of the run."""
    Thread(target=_end_with_parent, daemon=True).start()
    with plan.log(variant, seed).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(conclude(lambda: train_and_score(plan, variant, seed)))


def train_and_score(plan: Plan, variant: Variant, seed: int) -> None:
    """Trains ``variant`` and scores it at each mark of ``plan``. What was done before is not done again.

    Raises:
        InputError: the run does not fit its folder, data or precision, or was asked to stop.
    """
    from trainer.evaluate.__main__ import Evaluate, evaluate  # torch takes seconds, which the engine does not need

    os.environ["ACCELERATE_MIXED_PRECISION"] = plan.precision
    with variant.prepare():
        configs = [plan.config(variant, seed, mark) for mark in plan.marks_of(variant)]
        _check_precision(plan, configs[-1])
        for config in configs:
            _train(plan, config)
        evaluate(Evaluate(configs[-1].out, checkpoint="all", features=plan.features, samples=plan.samples, json=True))


def _check_precision(plan: Plan, config: Config) -> None:
    """Raises ``InputError`` if the run was trained in another precision, which it may change when it goes on."""
    from trainer.folder.checkpoint import TornCheckpoint, checkpoints, load
    from trainer.folder.run_folder import RunFolder

    for path in checkpoints(RunFolder(config.out).checkpoints):
        with suppress(TornCheckpoint):
            if (precision := load(path)[1].get("precision")) != plan.precision:
                raise InputError(
                    f"{path} was trained with mixed precision {precision}, not {plan.precision}. Give another --out."
                )


def _train(plan: Plan, config: Config) -> None:
    from trainer.ranks.launch import read_launch
    from trainer.status.__main__ import read_state
    from trainer.train.start import run

    run(plan.preset, config, read_launch())
    if (state := read_state(config.out).state) != "done":
        raise InputError(f"The run in {config.out} is {state}. Give the same command again to continue it.")


def _end_with_parent() -> None:
    """Ends this process when the engine is killed: it would train on unnoticed."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(ORPHANED)
