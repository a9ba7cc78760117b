"""``python -m trainer.status RUN [RUN ...]``: the state of runs, read from their folders without importing torch."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from shards.common.errors import InputError
from trainer.cli import INTERRUPTED, conclude, parse_command
from trainer.config import Config
from trainer.folder.journal import Warn, read_journal, warn_once
from trainer.folder.run_folder import REPAIR, RunFolder, is_locked
from trainer.folder.score_log import find_best, format_scores, newest, read_scores
from trainer.folder.start_log import read_starts, summarise
from trainer.watch.progress import format_figures, seconds_left

ROWS = 3  # of metrics.jsonl, the newest


@dataclass(frozen=True)
class Arguments:
    """Show the state of runs: newest figures, time left, last checkpoint, newest sheet of samples.

    Example: python -m trainer.status runs/faces runs/mnist
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Folders of runs."""
    json: bool = False
    """Print one JSON object per run and line."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("Name a run's folder: python -m trainer.status runs/faces")


@dataclass(frozen=True, kw_only=True)
class BasicStatus:
    """What ``status.json`` and the lock of one run say."""

    run: str
    state: str
    """``running``, ``preempted``, ``done`` or ``failed`` as in ``status.json``; ``starting`` before it is written;
    ``killed`` if it says ``running`` and the process is gone."""
    alive: bool | None  # whether a process holds the run's lock; None if its file system has no locks
    step: int
    position: int
    warnings: list[str]  # how the training goes wrong
    error: str | None  # why the run failed


@dataclass(frozen=True, kw_only=True)
class RunStatus(BasicStatus):
    """What the whole folder of one run says; ``None`` where it does not."""

    steps: int | None
    epoch: float | None
    images_per_second: float | None
    eta_seconds: float | None  # with evaluations; only while the run trains
    figures: dict[str, float]  # newest values in metrics.jsonl
    scores: dict[str, float]  # of the newest scored checkpoint, against the run's own images
    scored: str | None  # that checkpoint
    best: str | None  # the checkpoint that ``--checkpoint best`` means
    best_score: dict[str, float]  # its score that says so
    checkpoint: str | None
    checkpoint_age_seconds: float | None
    samples: str | None  # path of the newest sheet
    environment: dict[str, Any] | None  # devices, hosts, versions and command of the last start


def read_state(run: Path) -> BasicStatus:
    """The state of the run in ``run``, from two small files.

    Raises ``InputError`` if that is no run folder or its status is not valid.
    """
    folder = RunFolder(run)
    folder.check_exists()
    alive = is_locked(run)
    try:
        status = json.loads(folder.status.read_text())
        state, step, position = str(status["state"]), int(status["step"]), int(status["position"])
    except FileNotFoundError:
        if not alive:
            raise InputError(f"{run} is not a run folder: it holds no status.json.") from None
        status, state, step, position = {}, "starting", 0, 0
    except (OSError, ValueError, TypeError, LookupError, OverflowError) as error:
        raise InputError(f"{folder.status} is not a run's status: {error}. {REPAIR}") from error
    if state == "running" and alive is False:
        state = "killed"
    return BasicStatus(
        run=str(run),
        state=state,
        alive=alive,
        step=step,
        position=position,
        warnings=status.get("warnings", []),
        error=status.get("error"),
    )


def read_status(run: Path, warn: Warn = warn_once) -> RunStatus:
    """:func:`read_state` and the rest of the folder; ``warn`` is called with what is left out, because it is damaged.

    Raises ``InputError`` as :func:`read_state` does.
    """
    basic, folder = read_state(run), RunFolder(run)
    row = _newest_figures(folder.metrics, warn)
    config = None
    with suppress(InputError):  # a damaged config hides no state
        config = folder.read_config()
    starts, results = read_starts(folder.starts, warn), read_scores(folder.scores, warn)
    environment = starts[-1] if starts else {}
    scored, scores = newest(results, environment.get("data.digest")) or (None, {})
    judged = find_best(folder, results, config.evaluate.by if config else None, warn)
    steps_left, images_left = _remaining(config, basic, row)
    eta = None
    if basic.state == "running" and images_left is not None:
        with suppress(KeyError, ArithmeticError):
            eta = seconds_left(images_left, row)
    checkpoint = max(folder.checkpoints.glob("step-*"), default=None)
    return RunStatus(
        **vars(basic),
        steps=None if steps_left is None else basic.step + steps_left,
        epoch=row.get("epoch"),
        images_per_second=row.get("speed/images_per_second"),
        eta_seconds=eta,
        figures=row,
        scores=scores,
        scored=scored,
        best=judged[1].checkpoint if judged else None,
        best_score={judged[0]: judged[1].scores[judged[0]]} if judged else {},
        checkpoint=checkpoint.name if checkpoint else None,
        checkpoint_age_seconds=max(0.0, time.time() - checkpoint.stat().st_mtime) if checkpoint else None,
        samples=str(max(folder.samples.glob("step-*.png"), default="")) or None,
        environment=environment or None,
    )


def _remaining(config: Config | None, now: BasicStatus, row: dict[str, float]) -> tuple[int, int] | tuple[None, None]:
    """Steps and images left, by the trainer's own rule. ``epoch`` in ``row`` implies the size of the data set."""
    if config is None:
        return None, None
    try:
        samples = round(row["images"] / row["epoch"]) if config.epochs is not None else 1
    except (KeyError, ArithmeticError, ValueError):  # figures may be infinite or no numbers
        return None, None
    steps = config.remaining_steps(now.step, now.position, samples)
    return steps, steps * config.batch_size * config.d_steps


def _newest_figures(path: Path, warn: Warn) -> dict[str, float]:
    """The newest value of each figure in the last rows: those of an evaluation have figures of their own."""
    figures: dict[str, float] = {}
    for row in read_journal(path, dict, warn, last=ROWS):
        figures |= {name: value for name, value in row.items() if isinstance(value, int | float)}
    return figures


def describe(status: RunStatus) -> str:
    """A few lines of text for people."""
    head = f"{status.run}: {status.state}"
    head += " (a process is starting or ending)" if status.alive and status.state != "running" else ""
    head += f", {status.step:,}" + (f" of {status.steps:,} steps" if status.steps is not None else " steps")
    head += f", epoch {status.epoch:.2f}" if status.epoch is not None else ""
    left, age = status.eta_seconds, status.checkpoint_age_seconds
    head += f", {timedelta(seconds=round(left))} left" if left is not None else ""
    start = "the last checkpoint" if status.checkpoint else "the beginning, as it has no checkpoint yet"
    rows = {
        "figures": ", ".join(format_figures(status.figures)),
        "scores": f"{status.scored}: {format_scores(status.scores)}" if status.scores else None,
        "best": f"{status.best} ({format_scores(status.best_score)})" if status.best else None,
        "checkpoint": f"{status.checkpoint}, {timedelta(seconds=round(age))} old" if age is not None else None,
        "samples": status.samples,
        "environment": summarise(status.environment) if status.environment else None,
        "process": f"gone; the same command resumes from {start}" if status.state == "killed" else None,
        "warnings": "; ".join(status.warnings),
        "error": status.error,
    }
    return "\n".join([head, *(f"  {name:<11} {text}" for name, text in rows.items() if text)])


def _show(run: Path, *, as_json: bool) -> None:
    status = read_status(run)
    print(json.dumps(dataclasses.asdict(status)) if as_json else describe(status), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the state of each run. Each error is one line on standard error and makes the exit code 2."""
    codes = [0]

    def show_all() -> None:
        options = parse_command(Arguments, "status", arguments)
        for run in options.runs:
            codes.append(conclude(partial(_show, run, as_json=options.json)))
            if codes[-1] == INTERRUPTED:
                break

    return max(conclude(show_all), *codes)


if __name__ == "__main__":
    sys.exit(main())
