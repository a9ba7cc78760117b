from __future__ import annotations

from types import SimpleNamespace

import pytest

from trainer.watch import meter
from trainer.watch.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes when told to."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_speed_and_waiting_are_counted_since_the_last_reading(clock: SimpleNamespace) -> None:
    meter = Meter(position=1000)
    for wait, work in ((0.5, 1.5), (1.5, 0.5)):
        with meter.waiting():
            clock.now += wait
        clock.now += work
    assert meter.read(1200) == {"speed/images_per_second": 50.0, "data/wait": 0.5, "speed/checkpoints": 0.0}
    clock.now += 1.5
    with meter.saving():
        clock.now += 0.5
    assert meter.read(1210) == {"speed/images_per_second": 5.0, "data/wait": 0.0, "speed/checkpoints": 0.25}
