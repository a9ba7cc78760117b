from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.ranks.preemption import SIGNALS, Preemption

RUN = """
import sys, time
from pathlib import Path
from trainer.ranks import preemption as module
from trainer.ranks.preemption import Preemption

module.ECHO = float(sys.argv[2])
with Preemption(Path(sys.argv[1])) as preemption:
    print("up", flush=True)
    printed = None
    while True:
        time.sleep(0.005)
        if preemption.reason() != printed:
            printed = preemption.reason()
            print(printed, flush=True)
"""

STUCK = """
import ctypes, sys
from pathlib import Path
from trainer.ranks import preemption as module
from trainer.ranks.preemption import Preemption

module.ECHO = float(sys.argv[2])
with Preemption(Path(sys.argv[1])):
    print("up", flush=True)
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""


@contextmanager
def run(stop: Path, *, echo: float, code: str = RUN) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", code, str(stop), str(echo)], stdout=subprocess.PIPE, text=True)
    try:
        assert next_line(process) == "up"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_requests_a_stop_and_a_later_one_ends_the_process(
    tmp_path: Path, first: signal.Signals
) -> None:
    with run(tmp_path / "STOP", echo=0.05) as process:
        process.send_signal(first)
        assert next_line(process) == first.name
        time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT


def test_nohup_stays_in_force(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the process inherits, as of nohup
    try:
        with run(tmp_path / "STOP", echo=60) as process:
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert next_line(process) == "SIGTERM"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_signal_ends_a_process_that_is_stuck(tmp_path: Path) -> None:
    """In a call that does not come back to Python, as a collective whose other rank is gone."""
    with run(tmp_path / "STOP", echo=0.05, code=STUCK) as process:
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_the_launchers_echo_of_a_signal_does_not_end(tmp_path: Path) -> None:
    """scancel signals every process, and the launcher signals its workers once more, milliseconds later."""
    with run(tmp_path / "STOP", echo=60) as process:
        process.send_signal(signal.SIGTERM)
        assert next_line(process) == "SIGTERM"
        for number in SIGNALS:
            process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)


def test_a_stop_file_requests_a_stop_while_it_exists(tmp_path: Path) -> None:
    stop = tmp_path / "STOP"
    with Preemption(stop) as preemption:
        assert preemption.reason() is None
        stop.touch()
        assert preemption.reason() == str(stop)
        stop.unlink()
        assert preemption.reason() is None


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_remembered_and_comes_before_the_file(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "STOP").touch()
    with Preemption(tmp_path / "STOP") as preemption:
        os.kill(os.getpid(), number)
        assert [preemption.reason(), preemption.reason()] == [number.name] * 2
    assert preemption.reason() == number.name


def test_the_previous_handlers_are_restored(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Preemption(tmp_path / "STOP"):
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(KeyError), Preemption(tmp_path / "STOP"):
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == before
