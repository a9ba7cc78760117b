from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from shards.common.errors import InputError
from tests.trainer.report.make import result
from trainer.evaluate import __main__ as main
from trainer.evaluate.__main__ import draw
from trainer.evaluate.picture import draw_scores
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import Result, append_scores

LITE0 = {"fd-lite0": 30.0, "kd-lite0": 2.0, "precision-lite0": 0.5, "coverage-lite0": float("nan")}
PIXELS = {"swd-32": 9.0, "swd": 8.0, "ms-ssim": 0.3, "ms-ssim-real": 0.2}


def results(*steps: int, scores: dict[str, float]) -> list[Result]:
    return [Result(**result(step, scores)) for step in steps]


def test_a_panel_for_each_family(tmp_path: Path) -> None:
    """Two panels stand side by side, so that five take three rows and two take one."""
    sizes = []
    for scores in (LITE0 | PIXELS, PIXELS):
        draw_scores(results(20, 40, scores=scores), None, tmp_path / "evaluation.png")
        with Image.open(tmp_path / "evaluation.png") as picture:
            assert picture.format == "PNG"
            sizes.append(picture.size)
    (width, high), (same, low) = sizes
    assert width == same and 2.5 * low < high < 3 * low
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.png"]


def test_rings_mark_the_best_checkpoint_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``--checkpoint best``."""
    marked = []
    monkeypatch.setattr(main, "draw_scores", lambda _results, best, _path: marked.append(best))
    folder, scores = RunFolder(tmp_path), [results(step, scores={"swd": step})[0] for step in (20, 40)]
    append_scores(folder.scores, scores)
    draw(folder, None)
    (folder.checkpoints / "step-000000040").mkdir(parents=True)
    draw(folder, None)
    assert marked == [None, ("swd", scores[1])]


def test_without_matplotlib_there_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shards.common.errors.find_spec", lambda _: None)
    with pytest.raises(InputError, match="needs matplotlib, not installed here"):
        draw_scores(results(20, scores=PIXELS), None, tmp_path / "evaluation.png")
    append_scores(tmp_path / "scores.jsonl", results(20, scores=PIXELS))
    draw(RunFolder(tmp_path), None)
    said = capsys.readouterr().err
    assert said.startswith("note: ") and said.count("\n") == 1
    assert not (tmp_path / "evaluation.png").exists()


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_scores(tmp_path / "scores.jsonl", results(20, scores=PIXELS))
    (tmp_path / "evaluation.png").mkdir()
    draw(RunFolder(tmp_path), None)
    assert capsys.readouterr().err == f"warning: {tmp_path / 'evaluation.png'} cannot be written (Is a directory).\n"


def test_windows_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)  # torchmetrics imports it
    draw_scores(results(20, scores=PIXELS), None, tmp_path / "evaluation.png")
    assert "matplotlib.pyplot" not in sys.modules
