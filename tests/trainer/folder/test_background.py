from __future__ import annotations

import threading
import time

import pytest
import torch

from trainer.folder.background import Background, copy_to_host
from trainer.gan.optimizer import Tensors


def test_jobs_are_done_in_order_while_others_go_on() -> None:
    background, done, gate = Background(), [], threading.Event()
    background.submit(gate.wait)
    for number in range(5):
        background.submit(lambda number=number: done.append(number))
    assert done == []
    gate.set()
    background.wait()
    assert done == [0, 1, 2, 3, 4]
    background.close()


@pytest.mark.parametrize("call", ["check", "wait", "submit"])
def test_an_error_is_raised_by_the_next_call(call: str) -> None:
    background = Background()

    def fail() -> None:
        raise OSError("full")

    background.submit(fail)
    time.sleep(0.1)
    with pytest.raises(OSError, match="full"):
        background.submit(lambda: None) if call == "submit" else getattr(background, call)()
    background.close()


def test_closing_waits_for_all_jobs_and_warns_of_errors() -> None:
    background, done = Background(), []

    def fail() -> None:
        time.sleep(0.2)
        raise OSError("full")

    background.submit(fail)
    background.submit(lambda: done.append("checkpoint"))
    with pytest.warns(UserWarning, match="full"):
        background.close()
    assert done == ["checkpoint"]


def test_a_snapshot_is_of_its_moment_and_contiguous() -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    count = torch.tensor(3)
    copies: dict[str, Tensors] = {}
    before = weight.clone()
    copy_to_host({"net": {"weight": weight, "count": count}}, copies)
    weight.mul_(2)
    count.add_(1)
    held = copies["net"]["weight"]
    assert torch.equal(held, before) and held.is_contiguous() and copies["net"]["count"] == 3
    copy_to_host({"net": {"weight": weight, "count": count}}, copies)
    assert copies["net"]["weight"] is held and torch.equal(held, weight)
