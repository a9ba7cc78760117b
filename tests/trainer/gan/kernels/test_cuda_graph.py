from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.gan.test_step import (
    BATCH,
    CPU,
    conditional,
    create,
    drawn,
    labelled,
    noise,
    penalised,
    reals,
    small,
)
from trainer.config import Config
from trainer.gan.kernels.cuda_graph import WARM_UP, Replay, Work, cuda_graph
from trainer.gan.state import State
from trainer.gan.step import Metrics
from trainer.recipe import Augment, Schedule

LAZY = conditional(
    penalised(
        schedule=Schedule(images=500, lr_g=1e-5, lr_d=1e-3, r1=4.0, augment=0.2),
        augment=Augment("color,translation,cutout", 0.8),
    )
)
RECIPES = pytest.mark.parametrize(
    "config", [small(d_steps=2), LAZY], ids=["two D steps", "lazy penalties, augmentation and classes"]
)


class Calls(TorchDispatchMode):
    """Keeps each operation with its inputs, and with its outputs, whose memory the replay fills again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(function), "a graph cannot wait for the device"
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, tensors_in(out)))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, outputs in self.calls:
            for kept, new in zip(outputs, tensors_in(function(*args, **kwargs)), strict=True):
                if kept.data_ptr() != new.data_ptr():  # else a view, or in place
                    kept.copy_(new)


def tensors_in(out: Any) -> list[torch.Tensor]:
    return [part for part in (out if isinstance(out, tuple | list) else (out,)) if isinstance(part, torch.Tensor)]


def recorder(state: State) -> Callable[[Work], Work]:
    """What :func:`cuda_graph` does, on the CPU: Python runs once, and its numbers are kept in the recording."""

    def record(work: Work) -> Work:
        mine = [tensor for part in state.tensors().values() for tensor in part.values()]
        before = [tensor.clone() for tensor in mine]
        with Calls() as calls:
            metrics = work()
        for tensor, value in zip(mine, before, strict=True):
            with torch.no_grad():
                tensor.copy_(value)

        def replay() -> Metrics:
            calls.replay()
            return metrics

        return replay

    return record


def run(config: Config, device: torch.device, *, recorded: bool) -> tuple[State, list[dict[str, float]], int]:
    """State and metrics of a run that reports every seventh step, and the number of its recordings."""
    state, step = create(config, device)
    kind, works = getattr(torch, config.dtype), []
    record = cuda_graph if device.type == "cuda" else recorder(state)

    def count(work: Work) -> Work:
        works.append(work)
        return record(work)

    iterate, rows = Replay(step, count) if recorded else step, []
    for number in range((WARM_UP + 3) * config.penalty.every):
        parts = range(number * config.d_steps, (number + 1) * config.d_steps)
        images, latents = ([draw(n, kind).to(device) for n in parts] for draw in (reals, noise))
        more = [[part.to(device) for n in parts for part in draw(config, n)] for draw in (drawn, labelled)]
        metrics = iterate(images, latents, *more, report=number % 7 == 6)
        rows.append({name: value.item() for name, value in metrics.items()})
        state.step += 1
        state.position += BATCH * config.d_steps
    return state, rows, len(works)


@RECIPES
def test_a_replayed_run_is_the_run_bit_by_bit(config: Config) -> None:
    """The schedule too, which a recording would freeze if it were Python's numbers."""
    (plain, rows, _), (other, theirs, recordings) = (run(config, CPU, recorded=recorded) for recorded in (False, True))
    assert recordings == config.penalty.every and theirs == rows
    for mine, one in zip(plain.tensors().values(), other.tensors().values(), strict=True):
        assert all(torch.equal(mine[name], one[name]) for name in mine)


@pytest.mark.gpu
@RECIPES
def test_a_cuda_graph_is_the_eager_step(config: Config) -> None:
    """To 1e-9 in float64: cuDNN may choose other kernels in the recording, and the steps amplify what they round."""
    exact, device = replace(config, dtype="float64"), torch.device("cuda")
    (plain, rows, _), (other, theirs, _) = (run(exact, device, recorded=recorded) for recorded in (False, True))
    for mine, one in zip(rows, theirs, strict=True):
        assert one == pytest.approx(mine, rel=0, abs=1e-9)
    torch.testing.assert_close(other.tensors(), plain.tensors(), rtol=0, atol=1e-9)
