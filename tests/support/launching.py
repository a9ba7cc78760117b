"""Starts the trainer as a user does, from the repository's root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.forks import LAUNCHER, ROOT, python

SMALL = ("--batch-size", "8", "--model.features-g", "4", "--model.features-d", "4", "--model.z-dim", "8",
         "--log-every", "2", "--samples.every", "0", "--samples.count", "4", "--tracking.mode", "disabled",
         "--evaluate.samples", "0", "--threads", "1")  # fmt: skip
"""Flags of a run that takes a few milliseconds a step."""
RECIPE = ("--loss", "relativistic", "--penalty.r1", "1", "--penalty.r2", "1", "--penalty.every", "3",
          "--schedule.lr-g", "1e-5", "--schedule.r2", "0.1", "--schedule.ema-images", "30",
          "--augment.policy", "color,translation,cutout", "--schedule.augment", "0.3")  # fmt: skip
"""Flags of a run with lazy penalties, augmentation and a schedule, which need --schedule.images and a D without
BatchNorm."""


def command(*flags: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """``trainer/run.py`` with ``flags``, directly or under ``accelerate launch`` with the words of ``launcher``."""
    python = [sys.executable, "-m", LAUNCHER, *launcher] if launcher else [sys.executable]
    return [*python, "trainer/run.py", *flags]


def run(
    *flags: str,
    launcher: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    words: list[str] | None = None,
    timeout: float = 240,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, or run ``words`` instead; the caller looks at the exit code.

    The process is forked from one that has imported torch, which saves two seconds, unless it is a launcher,
    ``python -c`` or to be ``fresh``.
    """
    words = words or command(*flags, launcher=launcher)
    if not fresh and words[0] == sys.executable and words[1] != "-c" and LAUNCHER not in words:
        return python()(*words[1:], cwd=ROOT, env={**os.environ, **(env or {})})
    return subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(*flags: str, launcher: tuple[str, ...] = (), env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start in a process group of its own, so that the group can be killed whole."""
    return subprocess.Popen(
        command(*flags, launcher=launcher),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until the run in ``out`` says that it has done ``step`` steps."""
    for _ in range(2400):
        if (out / "status.json").exists() and status(out)["step"] >= step:
            return
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


def status(out: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((out / "status.json").read_text())
    return facts


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys(out: Path) -> list[str]:
    """Every key trained on, in the order of positions, put together from all ranks' files."""
    parts = [row for path in (out / "audit").glob("rank-*.jsonl") for row in rows(path)]
    parts.sort(key=lambda row: row["position"])
    position = 0
    for row in parts:
        assert row["position"] == position
        position += len(row["keys"])
    return [key for row in parts for key in row["keys"]]
