from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.trainer.gan.test_step import BATCH, COARSE, create, drawn, noise, penalised, reals, small, weights
from trainer.config import Config
from trainer.folder import checkpoint
from trainer.gan.state import State, create_state
from trainer.gan.step import Metrics, Step


def test_equal_configs_give_equal_states_whatever_was_drawn_before() -> None:
    one = create(small())[0]
    torch.rand(7)
    two = create(small())[0]
    assert all(torch.equal(a, b) for a, b in zip(weights(one.generator), weights(two.generator), strict=True))
    other = create(replace(small(), seed=1))[0]
    assert not torch.equal(weights(one.generator)[0], weights(other.generator)[0])


@pytest.mark.parametrize(
    "config", [small(), penalised(), COARSE], ids=["plain", "between two penalties of a schedule", "coarse"]
)
def test_a_checkpoint_carries_a_run_over_bit_by_bit(config: Config, tmp_path: Path) -> None:
    def train(state: State, step: Step, numbers: range) -> list[Metrics]:
        rows = []
        for number in numbers:
            rows.append(step([reals(number)], [noise(number)], drawn(config, number), report=True))
            state.step += 1
            state.position += BATCH
            state.update_average(BATCH, 100)
        return rows

    state, step = create(config)
    train(state, step, range(3))
    metadata = {"step": state.step, "position": state.position, "scaler": {}}
    checkpoint.save(tmp_path, 3, state.tensors(), metadata, keep=1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None

    twin, twin_step = create(replace(config, seed=5))
    twin.restore(*loaded[1:])
    rows = train(state, step, range(3, 6))
    assert rows == train(twin, twin_step, range(3, 6))
    assert ["penalty/r1" in row for row in rows] == [bool(config.penalties) and n % 2 == 0 for n in range(3, 6)]
    for name in ("generator", "average", "discriminator"):
        mine, other = (weights(getattr(either, name)) for either in (state, twin))
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def test_a_checkpoint_of_other_networks_is_refused() -> None:
    state = create(small())[0]
    wider = create_state(replace(small(), model=replace(small().model, features_g=16)), 64, 3, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        state.load(wider.tensors())


def test_the_average_follows_the_generator_with_its_half_life_and_buffers() -> None:
    state, step = create(small())
    step([reals(0)], [noise(0)], report=False)
    start, target = weights(state.average), weights(state.generator)
    state.position = 10**9
    state.update_average(images=500, half_life=500)
    for before, now, aim in zip(start, weights(state.average), target, strict=True):
        if before.is_floating_point():
            torch.testing.assert_close(now, (before + aim) / 2)
    state.position, start = 1000, weights(state.average)
    state.update_average(images=50, half_life=10**6)  # 5 % of the position are 50 images
    for before, now, aim in zip(start, weights(state.average), target, strict=True):
        if before.is_floating_point():
            torch.testing.assert_close(now, (before + aim) / 2)
    state.position = 0
    state.update_average(images=16, half_life=500)
    assert torch.equal(weights(state.average)[0], target[0])
