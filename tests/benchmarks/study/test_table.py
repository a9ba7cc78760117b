"""Means and ranges of known results."""

from __future__ import annotations

from benchmarks.study.engine import Row
from benchmarks.study.table import render


def row(variant: str, seed: int, *kd: float) -> Row:
    return Row(variant, seed, {}, tuple({"kd-lite0": value, "class-3": 0.1} for value in kd))


def test_a_cell_is_the_mean_and_the_range_of_the_last_mark() -> None:
    rows = [row("a", 0, 99, 1), row("a", 1, 99, 2), row("a", 2, 99, 6)]
    failed = Row("b", 1, {}, error="diverged")
    assert render([row("b", 0, 4), *rows, failed]).splitlines() == [
        "| variant | runs | kd-lite0 |",
        "| --- | --- | --- |",
        "| b | 1 of 2 | 4 |",
        "| a | 3 | 3 (1 to 6) |",
    ]
