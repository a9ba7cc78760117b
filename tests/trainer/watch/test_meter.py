from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from trainer.watch import meter
from trainer.watch.meter import MAX_WAIT, DataAdvisor, Meter, memory


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that tests set by hand."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_speed_and_waiting_are_counted_since_the_last_reading_and_evaluations_since_the_start(
    clock: SimpleNamespace,
) -> None:
    meter = Meter(position=1000)
    for wait, work in ((0.5, 1.5), (1.5, 0.5)):
        with meter.measure("data/wait"):
            clock.now += wait
        clock.now += work
    nothing = {"speed/checkpoints": 0.0, "speed/evaluation": 0.0}
    assert meter.read(1200) == {"speed/images_per_second": 50.0, "data/wait": 0.5, **nothing}
    clock.now += 1.5
    with meter.measure("speed/checkpoints"):
        clock.now += 0.5
    shares = {"data/wait": 0.0, **nothing, "speed/checkpoints": 0.25}
    assert meter.read(1210) == {"speed/images_per_second": 5.0, **shares}
    clock.now += 0.5
    with meter.measure("speed/evaluation"):
        clock.now += 1.5
    shares = {"data/wait": 0.0, **nothing, "speed/evaluation": 1.5 / 8}
    assert meter.read(1220) == {"speed/images_per_second": 20.0, **shares}, "without the evaluation"
    clock.now += 4
    shares["speed/evaluation"] = 1.5 / 12
    assert meter.read(1300) == {"speed/images_per_second": 20.0, **shares}, "of all the time, as most reports have none"


def test_advice_is_given_once_and_not_at_the_first_report() -> None:
    advisor = DataAdvisor(0, "jpg", remote=False, cores=2)
    assert advisor.advise(0.9) is None
    assert advisor.advise(MAX_WAIT) is None
    advice = advisor.advise(0.25)
    assert advice is not None and advice.startswith("25% of the time") and "--data.workers 1 or more" in advice
    assert advisor.advise(0.9) is None


@pytest.mark.parametrize(
    ("format", "remote", "named"),
    [("jpg", False, (True, False)), ("npy", True, (False, True)), ("png", True, (True, True))],
)
def test_advice_names_what_can_be_changed(format: str, remote: bool, named: tuple[bool, bool]) -> None:
    advisor = DataAdvisor(3, format, remote=remote, cores=8)
    advisor.advise(0)
    advice = advisor.advise(1)
    assert advice is not None and "--data.workers 4" in advice
    assert ("--format npy" in advice, "local disk" in advice) == named


@pytest.mark.parametrize(
    ("workers", "cores", "named"),
    [
        (0, 4, "--data.workers 1 or more;"),
        (1, 2, "--data.workers 2;"),
        (2, 2, "more cores than 2 for --data.workers 2;"),
    ],
)
def test_advice_asks_for_no_more_workers_than_cores(workers: int, cores: int, named: str) -> None:
    advisor = DataAdvisor(workers, "jpg", remote=False, cores=cores)
    advisor.advise(0)
    advice = advisor.advise(1)
    assert advice is not None and named in advice


def test_for_remote_shards_workers_may_outnumber_cores() -> None:
    advisor = DataAdvisor(4, "jpg", remote=True, cores=2)
    advisor.advise(0)
    assert "--data.workers 5 or more;" in (advisor.advise(1) or "")


HOLD = "import sys; block = b'x' * (200 << 20); print(flush=True); sys.stdin.read()"


def test_the_loaders_workers_count_and_other_children_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other process of the machine is looked at."""
    monkeypatch.setattr(psutil.Process, "children", None)
    cpu = torch.device("cpu")
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        (alone, with_child) = (memory(cpu, pids)["memory/host_gb"] for pids in ((), (child.pid,)))
        child.communicate()
    assert 0.15 < with_child - alone < 0.4
    gone = memory(cpu, [child.pid])
    assert set(gone) == {"memory/host_gb"} and gone["memory/host_gb"] == pytest.approx(alone, rel=0.2)


def test_memory_is_resident_memory_in_gib() -> None:
    resident = psutil.Process().memory_info().rss / 2**30
    assert memory(torch.device("cpu"))["memory/host_gb"] == pytest.approx(resident, rel=0.2)
