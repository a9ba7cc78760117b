"""``python -m trainer.status RUN [RUN ...]``: how runs stand. Reads only, and never waits for the run or for torch."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import tyro
import yaml
from tyro.conf import FlagCreatePairsOff, Positional, PositionalMetavarFromFieldName

from shards.errors import InputError
from trainer.config import Config
from trainer.folder import RunFolder, is_locked

TAIL = 1 << 16
"""Bytes of ``metrics.jsonl`` in which the newest row is looked for."""


@dataclass(frozen=True)
class Standing:
    """How one run stands; ``None`` is what its folder does not tell."""

    run: str
    state: str
    """``running``, ``preempted``, ``done`` or ``failed``, as the run says; ``starting`` before it says anything, and
    ``killed`` where it says ``running`` and its process is gone."""
    alive: bool
    """A process holds the run's lock right now."""
    step: int
    steps: int | None
    epoch: float | None
    images_per_second: float | None
    eta_seconds: float | None
    """Of a run that trains."""
    figures: dict[str, float]
    """The newest row of ``metrics.jsonl``."""
    checkpoint: str | None
    checkpoint_age_seconds: float | None
    samples: str | None
    """The newest sheet."""
    error: str | None
    """Why it failed."""


@dataclass(frozen=True)
class Status:
    """Show how runs stand: state, newest figures, time left, last checkpoint, newest sheet of samples.

    Example: python -m trainer.status runs/faces runs/mnist
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of runs."""
    json: bool = False
    """One JSON object a line, for programs."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("Name a run's folder: python -m trainer.status runs/faces")


def look(run: Path) -> Standing:
    """How the run in the folder ``run`` stands.

    Raises:
        InputError: it is no run folder, or a file of it is not what the trainer writes.
    """
    folder = RunFolder(run)
    if not run.is_dir():
        raise InputError(f"There is no run at {run}: no such folder.")
    told, alive = _read_json(folder.status), is_locked(run)
    if told is None and not alive:
        raise InputError(f"{run} is not a run folder: it holds no status.json.")
    told = told or {"state": "starting", "step": 0, "position": 0}
    state = told["state"] if alive or told["state"] != "running" else "killed"
    row = _newest_row(folder.metrics)
    left = _steps_left(run, told, row)
    speed = row.get("speed/images_per_second")
    trains = state == "running" and left is not None and speed and told["step"]
    saved = max(folder.checkpoints.glob("step-*"), default=None)
    return Standing(
        run=str(run),
        state=state,
        alive=alive,
        step=told["step"],
        steps=None if left is None else told["step"] + left,
        epoch=row.get("epoch"),
        images_per_second=speed,
        eta_seconds=left * told["position"] / told["step"] / speed if trains and left is not None and speed else None,
        figures=row,
        checkpoint=saved.name if saved else None,
        checkpoint_age_seconds=time.time() - saved.stat().st_mtime if saved else None,
        samples=str(max(folder.samples.glob("step-*.png"), default="")) or None,
        error=told.get("error"),
    )


def describe(standing: Standing) -> str:
    """For people: a few lines."""
    row = standing.figures
    whole = f"{standing.step:,}" + (f" of {standing.steps:,} steps" if standing.steps is not None else " steps")
    held = " (a process is starting or ending)" if standing.alive and standing.state != "running" else ""
    lines = [f"{standing.run}: {standing.state}{held}, {whole}"]
    if standing.epoch is not None:
        lines[0] += f", epoch {standing.epoch:.2f}"
    if standing.eta_seconds is not None:
        lines[0] += f", {_span(standing.eta_seconds)} left"
    if "loss/d" in row:
        lines.append(
            f"  figures     D {row['loss/d']:.3f} G {row['loss/g']:.3f} D(x) {row['score/real']:.2f} D(G(z)) "
            f"{row['score/fake_before']:.2f}/{row['score/fake_after']:.2f}, "
            f"{row['speed/images_per_second']:.0f} images/s, wait {row['data/wait']:.0%}"
        )
    if standing.checkpoint and standing.checkpoint_age_seconds is not None:
        lines.append(f"  checkpoint  {standing.checkpoint}, {_span(standing.checkpoint_age_seconds)} old")
    if standing.samples:
        lines.append(f"  samples     {standing.samples}")
    if standing.state == "killed":
        lines.append("  its process is gone; the same command goes on from the last checkpoint")
    if standing.error:
        lines.append(f"  error       {standing.error}")
    return "\n".join(lines)


def _steps_left(run: Path, told: dict[str, Any], row: dict[str, float]) -> int | None:
    """By the trainer's own rule; the size of the data set is what makes the newest row's epoch of its images."""
    try:
        flat = yaml.safe_load((run / "config.yaml").read_text())
        config = Config(**{name: flat[name] for name in ("steps", "epochs", "batch_size", "d_steps", "default_steps")})
    except (OSError, KeyError, TypeError, yaml.YAMLError, InputError):
        return None
    if config.epochs is not None and not row.get("epoch"):
        return None
    samples = round(row["images"] / row["epoch"]) if row.get("epoch") else 1
    return config.remaining_steps(told["step"], told["position"], samples)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(path.read_text())
        if not isinstance(told, dict) or not {"state", "step", "position"} <= told.keys():
            raise TypeError("no state")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a run's status: {error}") from error
    return told


def _newest_row(path: Path) -> dict[str, float]:
    """The last whole line; empty without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            whole = file.read().rpartition(b"\n")[0]
            row = json.loads(whole.rpartition(b"\n")[2])
    except (OSError, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def _span(seconds: float) -> str:
    return str(timedelta(seconds=max(0, round(seconds))))


def main(words: Sequence[str]) -> int:
    """Parse, look, print; what the user can put right is one line on standard error and exit code 2."""
    try:
        asked = tyro.cli(
            Status,
            prog="python -m trainer.status",
            args=words,
            config=(PositionalMetavarFromFieldName, FlagCreatePairsOff),
        )
        found = [look(run) for run in asked.runs]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for standing in found:
        print(json.dumps(dataclasses.asdict(standing)) if asked.json else describe(standing))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
