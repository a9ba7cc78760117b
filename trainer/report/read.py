"""Reads what a run folder says about its run. A damaged part is left out and named; the rest is shown."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from shards.common.errors import InputError
from trainer.config import flatten
from trainer.folder.journal import Warn, ignore, read_figures, read_rollbacks, warn_once
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import Curve, Result, curves, find_best, read_scores
from trainer.folder.start_log import read_starts
from trainer.status.__main__ import RunStatus, read_status

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is no whole PNG."""


@dataclass(frozen=True)
class Sheet:
    """A picture of samples, or of real images."""

    path: Path
    step: int
    images: int  # seen when it was drawn
    caption: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run; a part that its folder lacks is empty."""

    name: str
    status: RunStatus
    config: dict[str, Any]  # by dotted name
    metrics: dict[str, Curve]
    results: list[Result]  # of trainer.evaluate, oldest first
    best: tuple[str, Result] | None  # the result of the best checkpoint, and the score that says so
    scores: dict[str, Curve]
    state: dict[str, Any]  # what the newest checkpoint says of its run
    starts: list[dict[str, Any]]  # oldest first
    rollbacks: list[dict[str, Any]]  # those that led to the present weights, oldest first
    sheets: list[Sheet]  # oldest first
    real: Sheet | None
    problems: list[str] = field(default_factory=list)  # sentences on what was left out


def read_runs(paths: Sequence[Path], warn: Warn = warn_once) -> list[Run]:
    """Read run folders. A run is called like its folder, or by its path if another one is called the same.

    One that is no run folder, or whose status is not valid, is left out and named to ``warn``. Raises ``InputError`` if
    none is left.
    """
    folders = [path for place, path in enumerate(paths) if path.resolve() not in map(Path.resolve, paths[:place])]
    names = [path.resolve().name for path in folders]
    runs, problems = [], []
    for path, name in zip(folders, names, strict=True):
        try:
            runs.append(_read_run(path, name if names.count(name) == 1 else str(path)))
        except InputError as error:
            problems.append(str(error))
    if not runs:
        raise InputError(" ".join(problems))
    for problem in problems:
        warn(f"{problem} It is left out.")
    return runs


def _read_run(path: Path, name: str) -> Run:
    status, folder, problems = read_status(path, ignore), RunFolder(path), list[str]()  # the same files are read here
    try:
        config = flatten(folder.read_config())
    except InputError as error:
        config = {}
        problems.append(str(error))
    rows = sorted(read_figures(folder.metrics, problems.append), key=lambda row: row["images"])
    metrics: dict[str, Curve] = {}
    for row in rows:
        for metric, value in row.items():
            if metric not in ("step", "images") and (number := _number(value)) is not None:
                metrics.setdefault(metric, {})[row["images"]] = number
    results = read_scores(folder.scores, problems.append)
    sheets = _read_sheets(folder.samples, rows[-1]["images"] / max(1, rows[-1]["step"]) if rows else 0, problems)
    return Run(
        name=name,
        status=status,
        config=config,
        metrics=metrics,
        results=results,
        best=find_best(folder, results, config.get("evaluate.by"), problems.append),
        scores=curves(results),
        state=_read_state(folder),
        starts=read_starts(folder.starts, problems.append),
        rollbacks=list(read_rollbacks(folder.rollbacks, problems.append)),
        sheets=[sheet for sheet in sheets if sheet.path.stem != "real"],
        real=next((sheet for sheet in sheets if sheet.path.stem == "real"), None),
        problems=problems,
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _read_state(folder: RunFolder) -> dict[str, Any]:
    """The metadata of the newest checkpoint that has any; a running training may remove one meanwhile."""
    for path in sorted(folder.checkpoints.glob("step-*/state.json"), reverse=True):
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            continue
    return {}


def _read_sheets(folder: Path, per_step: float, problems: list[str]) -> list[Sheet]:
    """The sheets in ``folder`` in the order of the training. One that does not say how many images the run had seen is
    taken to have seen ``per_step`` a step.
    """
    sheets = []
    for path in folder.glob("*.png"):
        if not (number := re.fullmatch(r"real|step-(\d{1,15})", path.stem)):
            continue  # not the trainer's
        step = int(number[1] or 0)
        try:
            with Image.open(path, formats=["PNG"]) as image:
                text = {key: str(image.info.get(key, "")) for key in ("images", "caption")}
        except UNREADABLE:
            problems.append(f"{path} cannot be read and is left out.")
            continue
        images = int(text["images"]) if re.fullmatch(r"\d{1,15}", text["images"]) else round(step * per_step)
        sheets.append(Sheet(path, step, images, text["caption"] or f"Samples at step {step:,}."))
    return sorted(sheets, key=lambda sheet: (sheet.images, sheet.step))
