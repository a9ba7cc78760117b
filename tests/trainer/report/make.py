"""Run folders as the trainer and ``trainer.evaluate`` write them, without training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shards.common.sheet import write_sheet
from trainer.config import Config, flatten
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import Result

BATCH = 32


def metric(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "images": step * BATCH, "epoch": step / 100, "loss/d": 1 / step, "loss/g": 1.0 + step} | more


def result(step: int, scores: dict[str, float], samples: int = 1000, weights: str = "averaged") -> dict[str, Any]:
    found = Result(
        checkpoint=f"step-{step:09d}",
        step=step,
        position=step * BATCH,
        features="lite0",
        resize="none",
        samples=samples,
        reals=samples,
        data="d6911f",
        weights=weights,
        batch_norm="eval",
        scores=scores,
    )
    return dataclasses.asdict(found)


def lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def make_run(
    folder: Path,
    *,
    steps: Sequence[int] = (10, 20, 30, 40),
    results: Sequence[dict[str, Any]] = (),
    caption: str = "Generated.",
    seed: int = 0,
    **status: Any,
) -> Path:
    """A finished run with a row of metrics and a sheet at each of ``steps``."""
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(flatten(Config(out=folder, steps=40, seed=seed))))
    (folder / "metrics.jsonl").write_text(lines([metric(step) for step in steps]))
    if results:
        (folder / "scores.jsonl").write_text(lines(results))
    for row in results:
        (folder / "checkpoints" / row["checkpoint"]).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    for name, step in [("real", 0), *((f"step-{step:09d}", step) for step in steps)]:
        images = noise.integers(0, 256, (4, 16, 16, 3), np.uint8) if step else np.full((4, 16, 16, 3), 128, np.uint8)
        about = {"name": name, "caption": caption, "images": str(step * BATCH)}
        write_sheet(images, folder / "samples" / f"{name}.png", about)
    checkpoint = folder / "checkpoints" / f"step-{max(steps, default=0):09d}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    state = {
        "step": 40,
        "position": 1280,
        "manifest": "d6911f" * 10,
        "data": "200 faces",
        "precision": "no",
        "seed": seed,
    }
    (checkpoint / "state.json").write_text(json.dumps(state))
    RunFolder(folder).write_status(status.pop("state", "done"), 40, 40 * BATCH, **status)
    return folder
