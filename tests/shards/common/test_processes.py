from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from shards.common import processes
from shards.common.processes import WorkerDiedError, WorkerProcess


def start(module: str) -> tuple[WorkerProcess, psutil.Process]:
    """A worker, and its process: the child that was not there before."""
    before = set(psutil.Process().children())
    worker = WorkerProcess(module, own_group=True)
    (process,) = set(psutil.Process().children()) - before
    return worker, process


def test_receive_reports_a_worker_that_failed() -> None:
    worker = WorkerProcess("shards.no_such_module")
    with pytest.raises(WorkerDiedError, match="failed with exit code 1; see its output above") as caught:
        worker.receive()
    assert caught.value.killed_by is None
    worker.send("to nobody")
    worker.finish()


def test_receive_reports_the_signal_that_killed_a_worker() -> None:
    worker, process = start("shards.building.worker")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(WorkerDiedError, match="was killed by SIGTERM") as caught:
        worker.receive()
    assert caught.value.killed_by is signal.SIGTERM
    worker.finish()


def test_a_worker_leaves_when_its_connection_closes() -> None:
    worker, process = start("shards.building.worker")
    worker.finish()
    assert not process.is_running()


def test_kill_ends_a_worker_that_does_not_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stubborn.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker, process = start("stubborn")
    with monkeypatch.context() as patch:  # as in a read from a disk that hangs, which the system does not interrupt
        patch.setattr(subprocess.Popen, "kill", lambda _: None)
        patch.setattr(processes, "KILL_WAIT", 0.1)
        worker.kill()
    assert process.is_running()
    worker.kill()
    assert not process.is_running()
