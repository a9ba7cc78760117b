from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import shards.__main__
import trainer.run
import trainer.status.__main__
from trainer.cli import conclude, parse_command
from trainer.explore.__main__ import explore
from trainer.export.__main__ import Export, export
from trainer.report.__main__ import Report, report
from trainer.represent.__main__ import Represent, represent

SHARDS, TRAIN, STATUS = shards.__main__.main, trainer.run.main, trainer.status.__main__.main


def draw() -> int:
    return conclude(lambda: explore(sys.argv[1:]))


def write() -> int:
    return conclude(lambda: export(parse_command(Export, "export")))


def make_page() -> int:
    return conclude(lambda: report(parse_command(Report, "report")))


def score() -> int:
    return conclude(lambda: represent(parse_command(Represent, "represent")))


def test_a_lack_of_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As is any error that the user can fix; another is a bug."""

    def fail(error: Exception) -> None:
        raise error

    for error in (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()):
        assert conclude(partial(fail, error), lower="--samples") == 2
        said = capsys.readouterr().err
        assert said.startswith("error: There is not enough memory (") and said.count("\n") == 1
        assert said.endswith("End other programs that use it, or lower --samples.\n")
    with pytest.raises(RuntimeError, match="a bug"):
        conclude(partial(fail, RuntimeError("a bug")))


@pytest.mark.parametrize(
    ("main", "line"),
    [
        (SHARDS, "build folder @ out"),
        (SHARDS, "build folder raw @"),
        (SHARDS, "build faces @ --count 1"),
        (SHARDS, "build mnist raw @"),
        (SHARDS, "build celeba @ out"),
        (SHARDS, "build lsun raw out --categories @"),
        (SHARDS, "index @"),
        (SHARDS, "index raw --out @"),
        (SHARDS, "verify @"),
        (SHARDS, "info raw --sheet @"),
        (SHARDS, "info raw --sheet=@"),
        (TRAIN, "mnist --out @"),
        (TRAIN, "--out=@"),
        (TRAIN, "--data.shards @ --dry-run"),
        (TRAIN, "faces --data.cache @"),
        (TRAIN, "--data.audit @"),
        (TRAIN, "@"),
        (draw, "@ grid"),
        (draw, "run grid --out @"),
        (draw, "run grid --checkpoint @"),
        (write, "run @"),
        (write, "@ out"),
        (score, "run --shards @"),
        (score, "run --shards x --out @"),
        (STATUS, "run @"),
        (make_page, "run @"),
        (make_page, "run --out @"),
    ],
)
def test_an_empty_path_is_one_line_and_touches_nothing(
    main: Callable[[], int | None],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["program", *(word.replace("@", "") for word in line.split())])
    try:
        code = main()
    except SystemExit as error:  # of the trainer
        code = int(error.code or 0)
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("error: ") and printed.err.endswith("is empty: an unset variable?\n")
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
