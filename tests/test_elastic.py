"""From outside: killed again and again, with other ranks, workers and batches, no sample is lost or repeated."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from shards.build import build
from shards.options import Options
from shards.sources.mnist import Mnist
from tests.launching import SMALL, rows, run, start, status, wait_for_step

SAMPLES, BATCH = 1024, 32
STEPS = 2 * SAMPLES // BATCH
ON_CPU = {"ACCELERATE_USE_CPU": "true"}


@pytest.fixture(scope="module")
def digits(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mnist")
    build(Mnist(real_data / "mnist"), out, Options(size=32, format="png", limit=SAMPLES, shard_samples=300))
    return out


def flags(shards: Path, out: Path, workers: int, batch: int = BATCH) -> list[str]:
    """Two epochs."""
    return ["mnist", *SMALL, "--data.shards", str(shards), "--out", str(out), "--epochs", "2",
            "--batch-size", str(batch), "--checkpoint.every", "4", "--data.workers", str(workers),
            "--data.audit", str(out / "audit")]  # fmt: skip


def keys(out: Path) -> list[str]:
    """Every key trained on, in the order of positions, put together from all ranks' files."""
    parts = [row for path in (out / "audit").glob("rank-*.jsonl") for row in rows(path)]
    parts.sort(key=lambda row: row["position"])
    position = 0
    for row in parts:
        assert row["position"] == position
        position += len(row["keys"])
    return [key for row in parts for key in row["keys"]]


def test_ranks_workers_and_batch_may_change_at_any_kill(digits: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert run(*flags(digits, whole, workers=0)).returncode == 0
    undisturbed = keys(whole)
    assert set(Counter(undisturbed).values()) == {2} and len(undisturbed) == 2 * SAMPLES

    moments = random.Random(3)
    for ranks, workers in ((1, 3), (4, 0), (2, 1)):
        launcher = ("--multi_gpu", "--num_processes", str(ranks), "--main_process_port", "0")
        begun = status(out)["step"] if (out / "status.json").exists() else 0
        process = start(
            *flags(digits, out, workers), launcher=launcher if ranks > 1 else ("--num_processes", "1"), env=ON_CPU
        )
        wait_for_step(out, begun + moments.randrange(4, 14), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert 0 < status(out)["step"] < STEPS
    done = run(*flags(digits, out, workers=1, batch=2 * BATCH))
    assert done.returncode == 0, done.stderr
    assert status(out) == {"state": "done", "step": status(out)["step"], "position": 2 * SAMPLES}
    assert keys(out) == undisturbed
