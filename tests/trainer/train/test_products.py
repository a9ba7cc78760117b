"""Runs in bf16 on a CPU. Those without bf16 instructions emulate it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.launching import SMALL
from tests.support.ranks import on_ranks, train_here
from trainer.folder import checkpoint
from trainer.gan.kernels.choice import Choice
from trainer.gan.kernels.products import Strided
from trainer.ranks import device
from trainer.train import products

CHOICE: Choice = {"generator.blocks.1.0": ["forward", "weight"], "discriminator.blocks.2.0": ["images"]}
OTHER: Choice = {"generator.blocks.1.0": ["images"], "discriminator.blocks.2.0": ["forward"]}


def train_in_bf16(words: list[str], measured: int, choice: Choice) -> tuple[int, str, dict[str, int]]:
    """Train on this rank, which is to measure ``measured`` times and then finds ``choice``.

    Returns exit code, text, and how often layers were called with which products. The process ends after it.
    """
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    device.has_bf16 = lambda _: True
    calls: Counter[str] = Counter()
    times: list[int] = []
    products.measure = lambda *_: times.append(1) or choice  # type: ignore[assignment]
    apply = Strided.apply

    def counted(*values: Any) -> object:
        calls[describe(*values[2:])] += 1
        return apply(*values)

    Strided.apply = counted  # type: ignore[method-assign]
    code, text = train_here(words)
    assert len(times) == measured, text
    return code, text, dict(calls)


def describe(transposed: bool, passes: Collection[str]) -> str:
    return f"transposed {transposed}: {', '.join(sorted(passes))}"


def words(shards: Path, out: Path, steps: int) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--data.workers", "0", *SMALL, "--steps", str(steps)]


def test_a_resumed_run_takes_over_the_choice(faces32: Path, tmp_path: Path) -> None:
    """It does not measure again, and its weights are those of a run that was never stopped."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, steps, measured in ((whole, 4, 1), (parts, 2, 1), (parts, 4, 0)):
        ((code, text, calls),) = on_ranks(1, train_in_bf16, words(faces32, out, steps), measured, CHOICE)
        assert code == 0, text
        assert calls.keys() == {describe(True, {"forward", "weight"}), describe(False, {"images"})}
    loaded = [checkpoint.load(out / "checkpoints" / "step-000000004") for out in (whole, parts)]
    assert loaded[0][1]["products"]["choice"] == CHOICE
    assert loaded[0][1]["products"] == loaded[1][1]["products"]
    for group, tensors in loaded[0][0].items():
        assert all(torch.equal(tensor, loaded[1][0][group][name]) for name, tensor in tensors.items())


def test_ranks_share_the_choice_of_the_first_one(faces32: Path, tmp_path: Path) -> None:
    """On other numbers of ranks a batch has other rows, and the run measures again: no rank keeps the former choice."""
    first = on_ranks(1, train_in_bf16, words(faces32, tmp_path / "run", 1), 1, CHOICE)
    assert first[0][0] == 0, first[0][1]
    both = on_ranks(2, train_second_in_bf16, words(faces32, tmp_path / "run", 2))
    assert [code for code, _, _ in both] == [0, 0], both[0][1]
    assert both[0][2] == both[1][2]
    assert both[0][2].keys() == {describe(True, {"images"}), describe(False, {"forward"})}


def train_second_in_bf16(words: list[str]) -> tuple[int, str, dict[str, int]]:
    return train_in_bf16(words, int(os.environ["RANK"] == "0"), OTHER)


def test_a_choice_names_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = products.describe_machine(8)
    assert machine == products.describe_machine(8) != products.describe_machine(16)
    for place, name, value in [(torch, "get_num_threads", 99), (products, "describe_processor", "of next year")]:
        with monkeypatch.context() as patched:
            patched.setattr(place, name, lambda value=value: value)
            assert products.describe_machine(8) != machine


def test_float32_has_no_choice(faces32: Path, tmp_path: Path) -> None:
    assert train_here(words(faces32, tmp_path / "run", 1))[0] == 0
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "step-000000001")[1]["products"] == {}
