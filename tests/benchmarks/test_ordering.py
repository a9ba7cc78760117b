"""Which scores improve from checkpoint to checkpoint, on known results."""

from __future__ import annotations

from benchmarks.ordering import badness, ordered, render
from benchmarks.study.engine import Row


def scores(swd: float, recall: float, similarity: float) -> dict[str, float]:
    names = {"swd": swd, "recall-lite0": recall, "ms-ssim": similarity}
    return {**names, "ms-ssim-real": 0.2, "class-3": 0.1, "class-coverage": recall}


def test_less_is_better_more_is_better_or_nearer_is_better() -> None:
    found = badness(scores(3, 0.25, 0.1))
    assert found == {"swd": 3, "recall-lite0": 0.75, "ms-ssim": 0.1, "class-coverage": 0.75}


def test_a_score_orders_rightly_if_it_improves_each_time() -> None:
    right = Row("recipe", 0, {}, (scores(3, 0.1, 0.9), scores(2, 0.2, 0.1), scores(1, 0.3, 0.21)))
    wrong = Row("recipe", 1, {}, (scores(3, 0.1, 0.9), scores(3, 0.2, 0.1), scores(1, 0.1, 0.5)))
    assert all(ordered(right).values())
    assert ordered(wrong) == dict.fromkeys(ordered(right), False)
    table = render([right, wrong, Row("recipe", 2, {}, error="diverged")])
    assert table.splitlines()[2] == "| swd | 1 of 2 | 3, 2, 1 | 3, 3, 1 |"
