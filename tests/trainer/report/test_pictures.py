from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.common.sheet import write_sheet
from tests.trainer.report.make import make_run
from trainer.report.pictures import BUDGET, choose, encode
from trainer.report.read import Sheet, read_runs


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> list[Sheet]:
    return read_runs([make_run(tmp_path_factory.mktemp("long") / "run", steps=range(1, 201))])[0].sheets


def size(chosen: list[Sheet]) -> int:
    return sum(len(encode(sheet)) for sheet in chosen)


@pytest.mark.parametrize("budget", [5_000, 20_000, 60_000])
def test_a_long_run_is_thinned_evenly_to_the_budget(budget: int, sheets: list[Sheet]) -> None:
    chosen = choose(sheets, budget, None)
    assert 0.7 * budget < size(chosen) <= budget
    assert chosen[0] is sheets[0] and chosen[-1] is sheets[-1]
    gaps = np.diff([sheet.step for sheet in chosen])
    assert gaps.max() - gaps.min() <= 1


def test_the_sheet_of_the_best_checkpoint_is_kept(sheets: list[Sheet]) -> None:
    assert sheets[123] in choose(sheets, 20_000, sheets[123].images)
    assert choose(sheets, 0, sheets[150].images + 3) == [sheets[0], sheets[150], sheets[-1]]


def test_few_sheets_are_all_kept(sheets: list[Sheet]) -> None:
    for count in (0, 1, 2, 3, 50):
        assert choose(sheets[:count], BUDGET, 5) == sheets[:count]


def test_a_large_sheet_is_reduced(tmp_path: Path) -> None:
    write_sheet(np.random.default_rng(0).integers(0, 256, (64, 256, 256, 1), np.uint8), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 4e6
    assert len(encode(Sheet(tmp_path / "sheet.png", 0, 0, ""))) < 1.5e6
