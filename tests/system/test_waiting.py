"""From outside: a run whose data do not come saves what it has when it is asked to stop; a lost rank is noticed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.forks import LAUNCHER
from tests.support.launching import ROOT, SMALL, keys, run, start, status, wait_for_step
from trainer.folder import checkpoint

ON_CPU = {"ACCELERATE_USE_CPU": "true"}
RANKS = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def flags(shards: object, out: Path) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--steps", "100000", "--checkpoint.every", "100000",
            "--data.workers", "2", "--data.audit", str(out / "audit"), *SMALL]  # fmt: skip


def trainers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those of all ranks, in order."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    found = [one for one in family if "trainer/run.py" in one.cmdline() and LAUNCHER not in one.cmdline()]
    return sorted(found, key=lambda one: one.environ().get("RANK", "0"))


def workers(trainer: psutil.Process) -> list[psutil.Process]:
    """Of its loader."""
    return [child for child in trainer.children() if "shards.loading.worker" in child.cmdline()]


def wait_until_it_stands(out: Path) -> None:
    """What the loader has read ahead is used up."""
    log, before = out / "audit" / "rank-0.jsonl", -1
    while (size := log.stat().st_size if log.exists() else 0) != before:
        before = size
        time.sleep(1.5)


@pytest.mark.parametrize(("ranks", "hung", "how"), [(1, 0, "SIGTERM"), (2, 1, "STOP")])
def test_a_run_that_waits_for_its_loader_saves(ranks: int, hung: int, how: str, faces32: Path, tmp_path: Path) -> None:
    process = start(*flags(faces32, tmp_path), launcher=RANKS if ranks > 1 else (), env=ON_CPU)
    try:
        wait_for_step(tmp_path, 10, process)
        for worker in workers(trainers(process)[hung]):
            worker.suspend()
        wait_until_it_stands(tmp_path)
        if how == "STOP":
            (tmp_path / "STOP").touch()
        else:
            for trainer in trainers(process):
                trainer.send_signal(getattr(signal, how))
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, said
    stopped = status(tmp_path)
    assert stopped["state"] == "preempted" and stopped["step"] >= 10 and stopped["position"] == 8 * stopped["step"]
    loaded = checkpoint.load_newest(tmp_path / "checkpoints")
    assert loaded is not None and loaded[2]["step"] == stopped["step"]
    more = stopped["step"] + 30
    again = run(*flags(faces32, tmp_path), "--steps", str(more))
    assert again.returncode == 0 and status(tmp_path)["state"] == "done", again.stderr
    read = keys(tmp_path)
    assert len(read) == 8 * more and all(len(set(read[n : n + 200])) == 200 for n in range(0, len(read) - 200, 200))


def test_a_run_whose_loader_is_killed_saves_and_says_so(faces32: Path, tmp_path: Path) -> None:
    """As by the system's out-of-memory killer."""
    process = start(*flags(faces32, tmp_path), env=ON_CPU)
    try:
        wait_for_step(tmp_path, 10, process)
        workers(trainers(process)[0])[0].kill()
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    error = "A loader's worker was killed by SIGKILL: out of memory?"
    assert process.returncode == 2 and said.count(f"error: {error}") == 1 and "Traceback" not in said
    stopped, loaded = status(tmp_path), checkpoint.load_newest(tmp_path / "checkpoints")
    assert stopped["state"] == "failed" and stopped["error"].startswith(error) and stopped["step"] >= 10
    assert loaded is not None and loaded[2]["step"] == stopped["step"]


STUCK = r"""
import ctypes, os, sys
sys.path[0] = os.getcwd()
from trainer import run
from trainer.ranks import peers
from trainer.train.session import Session

peers.GRACE = 1.0
advance = Session.advance

def advance_or_stick(self, batches, *, report):
    if self.state.step == 20 and os.environ["RANK"] == "0":
        os.write(1, b"stuck\n")
        while True:
            ctypes.CDLL(None).pause()
    return advance(self, batches, report=report)

Session.advance = advance_or_stick
run.main()
"""


def test_a_rank_that_is_stuck_in_c_ends_when_another_is_lost(faces32: Path, tmp_path: Path) -> None:
    """As in NCCL, where the main thread notices nothing. No launcher ends it either."""
    script, out = tmp_path / "run.py", tmp_path / "run"
    script.write_text(STUCK)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, **ON_CPU, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), *flags(faces32, out)], cwd=ROOT, text=True,
            env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        survivor, victim = ranks
        assert survivor.stdout and survivor.stdout.readline() == "stuck\n"
        victim.kill()
        _, said = survivor.communicate(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert survivor.returncode == 1 and "Traceback" not in said and "[c10d]" not in said
    assert "error (rank 0 on " in said and "rank 1, connected to rank 0" in said, said
    final = status(out)
    assert (final["state"], final["step"], final["position"]) == ("failed", 20, 160)
    assert "Another rank was lost after step 20; its own log says why" in final["error"]
