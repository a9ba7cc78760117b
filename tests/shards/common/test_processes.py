from __future__ import annotations

import signal

import psutil
import pytest

from shards.common.processes import WorkerDiedError, WorkerProcess


def test_receive_reports_a_worker_that_failed() -> None:
    worker = WorkerProcess("shards.no_such_module")
    with pytest.raises(WorkerDiedError, match="failed with exit code 1; see its output above") as caught:
        worker.receive()
    assert caught.value.killed_by is None
    worker.send("to nobody")
    worker.finish()


def test_receive_reports_the_signal_that_killed_a_worker() -> None:
    worker = WorkerProcess("shards.building.worker", own_group=True)
    (process,) = psutil.Process().children()
    process.send_signal(signal.SIGTERM)
    with pytest.raises(WorkerDiedError, match="was killed by SIGTERM") as caught:
        worker.receive()
    assert caught.value.killed_by is signal.SIGTERM
    worker.finish()


def test_a_worker_leaves_when_its_connection_closes() -> None:
    worker = WorkerProcess("shards.building.worker")
    (process,) = psutil.Process().children()
    worker.finish()
    assert not process.is_running()


def test_kill_ends_a_worker_that_does_not_leave() -> None:
    worker = WorkerProcess("http.server")  # its argument is a port: it serves until it is killed
    (process,) = psutil.Process().children()
    worker.kill()
    assert not process.is_running()
