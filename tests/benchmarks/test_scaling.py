"""One rank against two, and the exchanges of two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.scaling import ONE, TWO, WHOLE, Arguments, benchmark
from shards.common.errors import InputError

SMALL = Arguments(features=2, batch_size=4, iterations=1, rounds=1)
LAYERS, PASSES = 4 + 3 * 3, 2
"""BatchNorm layers in an iteration: those of the generator, and three times those of the discriminator."""


def test_two_ranks_exchange_the_least(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user runs it: every gradient once, and one message for each BatchNorm layer and direction."""
    file = tmp_path / "x.json"
    benchmark(Arguments(**{**vars(SMALL), "json": file}))
    turns = json.loads(file.read_text())["turns"]
    (one,), (two,) = turns[ONE], turns[TWO]
    assert one["gradients"] == one["statistics"] == []
    assert len(two["gradients"]) == 2 and sum(two["gradients"]) == two["least"] == one["least"] > 0
    assert len(two["statistics"]) == LAYERS * PASSES
    said = capsys.readouterr().out
    assert f"{TWO:<20}" in said and f"gradients: 2 exchanges, {two['least']:,} bytes" in said
    assert "Projection (not a measurement)" in said


def test_the_parts_of_an_iteration_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    benchmark(Arguments(**{**vars(SMALL), "json": file, "parts": True, "rounds": 2}))
    parts = json.loads(file.read_text())["parts"]
    assert len(parts) == 3 and all(len(pairs) == 2 for pairs in parts.values())
    assert all(value > 0 for pairs in parts.values() for pair in pairs for value in pair)
    assert WHOLE in capsys.readouterr().out


def test_a_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match="--batch-size 5 does not divide among two ranks"):
        benchmark(Arguments(batch_size=5))
