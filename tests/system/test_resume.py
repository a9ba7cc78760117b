"""From outside: train, kill, run the same command again, compare with the run that was left in peace.

The networks are class-conditional, so that labels must come again too.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.forks import ROOT, python
from tests.support.launching import SMALL, rows, run, start, status, wait_for_step
from tests.support.make import make_shards

STEPS = 120


def flags(shards: Path, out: Path, workers: int) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--steps", str(STEPS), "--checkpoint.every", "20",
            "--data.workers", str(workers), "--data.flip", "--data.audit", str(out / "audit"),
            "--model.conditional", "true", *SMALL]  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "shards"
    make_shards(folder, samples=200, channels=3, shard_samples=60)
    return folder


@pytest.fixture(scope="module")
def undisturbed(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(*flags(labelled, out, workers=0))
    assert done.returncode == 0, done.stderr
    return out


def weights(out: Path) -> dict[str, bytes]:
    newest = sorted((out / "checkpoints").iterdir())[-1]
    assert newest.name == f"step-{STEPS:09d}"
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def figures(out: Path) -> list[dict[str, float]]:
    timed = ("speed/", "data/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows(out / "metrics.jsonl")]


def assert_same_figures(out: Path, undisturbed: Path) -> None:
    """But for the penalties of a process that resumed and has not had a step with some."""
    for mine, other in zip(figures(out), figures(undisturbed), strict=True):
        assert mine == {name: other[name] for name in mine}
        assert other.keys() - mine.keys() <= {"penalty/r1", "penalty/r2"}


@pytest.mark.parametrize(("how", "left"), [(signal.SIGKILL, "running"), (signal.SIGTERM, "preempted")])
def test_a_run_that_was_stopped_ends_bit_equal(
    how: signal.Signals, left: str, labelled: Path, undisturbed: Path, tmp_path: Path
) -> None:
    wanted = flags(labelled, tmp_path, workers=1)
    process = start(*wanted, launcher=("--num_processes", "1") if how == signal.SIGTERM else ())
    wait_for_step(tmp_path, 50, process)
    os.killpg(process.pid, how)
    process.communicate(timeout=60)
    stopped = status(tmp_path)
    assert (stopped["state"], 50 <= stopped["step"] < STEPS) == (left, True)

    again = run(*wanted)
    assert again.returncode == 0, again.stderr
    assert status(tmp_path) == {"state": "done", "step": STEPS, "position": STEPS * 8}
    assert weights(tmp_path) == weights(undisturbed)
    assert_same_figures(tmp_path, undisturbed)
    audit = rows(tmp_path / "audit" / "rank-0.jsonl")
    assert audit == rows(undisturbed / "audit" / "rank-0.jsonl")
    assert [row["step"] for row in audit] == list(range(1, STEPS + 1))
    keys = [key for row in audit for key in row["keys"]]
    assert all(len(set(keys[start : start + 200])) == 200 for start in (0, 200, 400, 600))


def test_a_replayed_run_goes_on_as_the_plain_one(labelled: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The run's own buffers, feed and checkpoints around a recording, which without a GPU is the work done anew."""
    replayed = (
        "from trainer.train import start; from trainer import run; start.supports_cuda_graphs = lambda launch: True; "
        "start.cuda_graph = lambda work: print('recorded') or work; run.main()"
    )
    for steps in (50, STEPS):
        wanted = [*flags(labelled, tmp_path, workers=1), "--cuda-graphs", "--steps", str(steps)]
        done = python()("-c", replayed, *wanted, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert status(tmp_path)["step"] == steps and done.stderr.count("recorded") == 1
    assert weights(tmp_path) == weights(undisturbed)
    assert_same_figures(tmp_path, undisturbed)


def test_a_run_whose_launcher_was_killed_leaves_in_good_order(labelled: Path, tmp_path: Path) -> None:
    """``kill``, ``timeout`` or a supervisor signal the launcher alone, which tells its script nothing."""
    wanted = [*flags(labelled, tmp_path, workers=1), "--steps", "100000"]
    process = start(*wanted, launcher=("--num_processes", "1"))
    wait_for_step(tmp_path, 10, process)
    process.terminate()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while status(tmp_path)["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped = status(tmp_path)
    assert stopped["state"] == "preempted"
    assert (tmp_path / "checkpoints" / f"step-{stopped['step']:09d}").exists()


def test_a_stop_file_asks_a_run_to_leave_and_is_used_up(labelled: Path, undisturbed: Path, tmp_path: Path) -> None:
    wanted = flags(labelled, tmp_path, workers=1)
    process = start(*wanted)
    wait_for_step(tmp_path, 30, process)
    (tmp_path / "STOP").touch()
    process.communicate(timeout=60)
    assert process.returncode == 0
    stopped = status(tmp_path)
    assert stopped["state"] == "preempted" and stopped["position"] == stopped["step"] * 8
    assert not (tmp_path / "STOP").exists()
    assert run(*wanted).returncode == 0
    assert weights(tmp_path) == weights(undisturbed)


def test_a_finished_run_is_left_as_it_is(labelled: Path, undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (undisturbed / "checkpoints").rglob("*")}
    again = run(*flags(labelled, undisturbed, workers=0))
    assert again.returncode == 0 and "nothing to do" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "checkpoints").rglob("*")} == before
