"""How a run stands, by what its folder holds. Reads only, and never waits for the run or for torch."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shards.common.errors import InputError
from trainer.config import Config
from trainer.folder.run_folder import RunFolder, is_locked

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
    config = _config(run)
    left = _steps_left(config, told, row) if config else None
    speed = row.get("speed/images_per_second")
    images_left = left * config.batch_size * config.d_steps if config and left is not None else None
    saved = max(folder.checkpoints.glob("step-*"), default=None)
    return Standing(
        run=str(run),
        state=state,
        alive=alive,
        step=told["step"],
        steps=None if left is None else told["step"] + left,
        epoch=row.get("epoch"),
        images_per_second=speed,
        eta_seconds=images_left / speed if state == "running" and images_left is not None and speed else None,
        figures=row,
        checkpoint=saved.name if saved else None,
        checkpoint_age_seconds=time.time() - saved.stat().st_mtime if saved else None,
        samples=str(max(folder.samples.glob("step-*.png"), default="")) or None,
        error=told.get("error"),
    )


def _config(run: Path) -> Config | None:
    """What of it says how long the run is: of the process that trains now, with the batch size that it was given."""
    try:
        flat = yaml.safe_load((run / "config.yaml").read_text())
        return Config(**{name: flat[name] for name in ("steps", "epochs", "batch_size", "d_steps", "default_steps")})
    except (OSError, KeyError, TypeError, yaml.YAMLError, InputError):
        return None


def _steps_left(config: Config, told: dict[str, Any], row: dict[str, float]) -> int | None:
    """By the trainer's own rule; the size of the data set is what makes the newest row's epoch of its images."""
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
