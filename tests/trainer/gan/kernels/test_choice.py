"""The choice between products and convolutions: what is measured, what it changes, and what it leaves alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.trainer.gan.test_step import conditional, create, noise, penalised, reals, small
from trainer.config import Config
from trainer.gan.kernels import choice, products
from trainer.gan.kernels.choice import Choice, Shape, choose, measure, shapes
from trainer.gan.state import State

PASSES = ["forward", "images", "weight"]
OTHERS = replace(small(), model=replace(small().model, upsampling="nearest", norm_d="none"))
"""Networks whose layers have weights and biases of another kind."""


def everywhere(state: State, size: int = 64) -> Choice:
    """Products for all passes of all layers."""
    return {name: [*PASSES] for name in shapes(state.generator, state.discriminator, size, 3, 1)}


def test_shapes_are_those_that_the_layers_see() -> None:
    state, _ = create(conditional(small()))
    found = shapes(state.generator, state.discriminator, 64, 3, 16)
    assert found == {
        "generator.blocks.1.0": Shape(16, 128, 64, 4, transposed=True),
        "generator.blocks.2.0": Shape(16, 64, 32, 8, transposed=True),
        "generator.blocks.3.0": Shape(16, 32, 16, 16, transposed=True),
        "generator.blocks.4.0": Shape(16, 16, 3, 32, transposed=True),
        "discriminator.blocks.1.0": Shape(16, 16, 8, 16, transposed=False),
        "discriminator.blocks.2.0": Shape(16, 32, 16, 8, transposed=False),
        "discriminator.blocks.3.0": Shape(16, 64, 32, 4, transposed=False),
    }
    assert state.generator.training and state.discriminator.training


@pytest.mark.parametrize("config", [small(), OTHERS], ids=["BatchNorm", "none"])
def test_a_step_calls_the_layers_with_as_many_images_as_are_measured(config: Config) -> None:
    """Those whose weights get a gradient: without BatchNorm, real and generated images go through D together."""
    state, step = create(config)
    measured = shapes(state.generator, state.discriminator, 64, 3, len(reals(0)))
    seen: dict[str, set[int]] = {name: set() for name in measured}

    def note(name: str) -> Callable[[Any, tuple[torch.Tensor], torch.Tensor], None]:
        def hook(layer: Any, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
            if layer.weight.requires_grad:
                seen[name].add(len(inputs[0]))

        return hook

    for name, layer in choice._layers(state.generator, state.discriminator).items():
        layer.register_forward_hook(note(name))
    step([reals(0)], [noise(0)], report=False)
    assert seen == {name: {shape.rows} for name, shape in measured.items()}


def test_both_ways_of_a_pass_compute_the_same() -> None:
    for transposed in (True, False):
        for convolution, product in Shape(2, 6, 4, 4, transposed).passes(torch.float64).values():
            one, other = convolution(), product()
            one = next(part for part in one if part is not None) if isinstance(one, tuple) else one
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_product_is_chosen_where_it_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tie goes to the convolution, so that noise decides less often. Layers from 32x32 pixels on have no choice."""
    state, _ = create(small())
    times = itertools.cycle([0.8, 1.0, 0.95, 1.0, 1.2, 1.0])  # product and convolution of each pass
    monkeypatch.setattr(choice, "fastest", lambda _: next(times))
    found = measure(state.generator, state.discriminator, 64, 3, 2)
    assert found == {name: ["forward"] for name in everywhere(state) if name != "generator.blocks.4.0"}


def test_a_choice_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = create(small())
    measured = everywhere(state).keys() - {"generator.blocks.4.0"}
    for gain, wanted in ((1e9, PASSES), (0.0, [])):  # any product is fast enough, or none
        monkeypatch.setattr(choice, "GAIN", gain)
        found = measure(state.generator, state.discriminator, 64, 3, 2)
        assert found == dict.fromkeys(measured, wanted)


PENALISED = penalised(every=1, model=OTHERS.model)


@pytest.mark.parametrize("config", [small(), OTHERS, PENALISED], ids=["defaults", "others", "penalties"])
def test_products_train_like_convolutions_in_bf16(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of three steps agree to the rounding of bf16, whose relative error is 0.4 %."""
    used: list[bool] = []
    monkeypatch.setattr(products, "up", lambda *images: used.append(True) or UP(*images))

    def losses(*, by_products: bool) -> list[float]:
        state, step = create(config)
        if by_products:
            choose(state.generator, state.discriminator, everywhere(state))
        for network in (state.generator, state.discriminator):
            vars(network)["forward"] = torch.autocast("cpu", dtype=torch.bfloat16)(
                network.forward
            )  # as accelerate does
        found = []
        for number in range(3):
            metrics = step([reals(number)], [noise(number)], report=False)
            found += [metrics["loss/d"].item(), metrics["loss/g"].item()]
            state.step += 1
        return found

    plain = losses(by_products=False)
    assert not used
    assert losses(by_products=True) == pytest.approx(plain, rel=0.01)
    assert used


def test_without_autocast_or_training_nothing_changes() -> None:
    """float32, sheets and exports compute what they did."""
    state, _ = create(small())
    before = state.discriminator(state.generator(noise(0)))
    shown = state.average(noise(0))
    for network in (state.generator, state.average):
        choose(network, state.discriminator, everywhere(state))
    assert torch.equal(state.discriminator(state.generator(noise(0))), before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = state.average(noise(0))
    assert torch.equal(state.average(noise(0)), shown)
    choose(state.average, state.discriminator, {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(state.average(noise(0)), rounded)


UP = products.up
