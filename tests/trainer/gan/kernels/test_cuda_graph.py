from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.conftest import NO_GPU
from tests.trainer.gan.test_step import create, noise, reals, small
from trainer.gan.kernels.cuda_graph import WARM_UP, Replay, Work, cuda_graph
from trainer.gan.state import State
from trainer.gan.step import Metrics

STEPS = WARM_UP + 5


def again(work: Work) -> Work:
    """A recording that is run anew each time, from the same buffers: what a graph does, where there is none."""
    kept: Metrics = {}

    def replay() -> Metrics:
        for name, value in work().items():
            kept.setdefault(name, torch.empty_like(value)).copy_(value)
        return kept

    return replay


def both(
    record: Callable[[Work], Work], device: torch.device, d_steps: int, dtype: str = "float32"
) -> list[tuple[State, list[list[float]]]]:
    """State and losses of a run as it is and of one that is recorded, which report every third step."""
    found, kind = [], getattr(torch, dtype)
    for recorded in (False, True):
        state, step = create(small(d_steps=d_steps, dtype=dtype), device)
        iterate = Replay(step, record) if recorded else step
        losses = []
        for number in range(STEPS):
            parts = range(number * d_steps, (number + 1) * d_steps)
            images, latents = ([draw(n, kind).to(device) for n in parts] for draw in (reals, noise))
            metrics = iterate(images, latents, report=number % 3 == 2)
            losses.append([metrics[name].item() for name in ("loss/d", "loss/g")])
        found.append((state, losses))
    return found


@pytest.mark.parametrize("d_steps", [1, 2])
def test_a_replayed_run_is_the_run_bit_by_bit(d_steps: int) -> None:
    recorded = []

    def record(work: Work) -> Work:
        recorded.append(work)
        return again(work)

    (plain, losses), (other, theirs) = both(record, torch.device("cpu"), d_steps)
    assert len(recorded) == 1 and theirs == losses
    for mine, one in zip(plain.tensors().values(), other.tensors().values(), strict=True):
        assert all(torch.equal(mine[name], one[name]) for name in mine)


@pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)
@pytest.mark.parametrize("d_steps", [1, 2])
def test_a_cuda_graph_is_the_eager_step(d_steps: int) -> None:
    """To 1e-9 in float64: cuDNN may choose other kernels in the recording, and the steps amplify what they round."""
    (plain, losses), (other, theirs) = both(cuda_graph, torch.device("cuda"), d_steps, "float64")
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(losses), rtol=0, atol=1e-9)
    torch.testing.assert_close(other.tensors(), plain.tensors(), rtol=0, atol=1e-9)
