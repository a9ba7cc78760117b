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

from trainer.preempt import SIGNALS, Preemption

RUN = """
import sys, time
from pathlib import Path
from trainer.preempt import Preemption

with Preemption(Path(sys.argv[1])) as preemption:
    print("up", flush=True)
    said = None
    while True:
        time.sleep(0.005)
        if preemption.reason() != said:
            said = preemption.reason()
            print(said, flush=True)
"""


@contextmanager
def run(stop: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(stop)], stdout=subprocess.PIPE, text=True)
    try:
        assert heard(process) == "up"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_asks_and_a_second_one_ends(tmp_path: Path, first: signal.Signals) -> None:
    with run(tmp_path / "STOP") as process:
        process.send_signal(first)
        assert heard(process) == first.name
        assert process.poll() is None
        second = signal.SIGINT
        process.send_signal(second)
        assert process.wait(10) == -second


def test_a_stop_file_asks_until_it_is_gone(tmp_path: Path) -> None:
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


def test_the_handlers_of_before_come_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError), Preemption(tmp_path / "STOP"):
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_does_not_cut_a_wait_short(tmp_path: Path) -> None:
    """A read or a collective under way goes on."""
    with Preemption(tmp_path / "STOP"):
        began = time.monotonic()
        subprocess.Popen([f"sleep 0.1; kill -TERM {os.getpid()}"], shell=True).wait()
        time.sleep(0.05)
        assert time.monotonic() - began > 0.15
