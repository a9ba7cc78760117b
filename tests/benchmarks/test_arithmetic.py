"""Smiling - neutral + neutral with glasses = smiling with glasses, on faces whose attributes are known."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.arithmetic import Arguments, main, measure, read_faces
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.sources.faces import Faces
from tests.support.launching import run
from tests.support.make import make_shards
from trainer.folder.load_run import load_run


def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["arithmetic", str(tmp_path / "nowhere")])
    assert main() == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "no such folder" in message and message.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["arithmetic", "--other", "foo"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "glasses" in capsys.readouterr().err
    make_shards(tmp_path / "digits")
    with pytest.raises(InputError, match="no drawn faces"):
        read_faces(tmp_path / "digits", 10, ("smiling", "man"))


@pytest.mark.timeout(900)  # 20 s of work for an idle core, and much more on busy ones
def test_arithmetic_makes_faces_smile(tmp_path: Path) -> None:
    """A short run learns enough, with some seeds more than with others, and with long latents.

    After 600 steps with seed 1, 0.64 of the results smiled, 0.30 of the samples, and 0.30 of the sums with random
    samples. After 300 steps, another rounding of the same run drew no smiling face.
    """
    faces, out = tmp_path / "faces", tmp_path / "run"
    build(Faces(1500), faces, Options(size=32))
    flags = ["--steps", "600", "--seed", "1", "--samples.every", "0", "--threads", "1", "--tracking.mode", "disabled"]
    flags += ["--evaluate.samples", "0", "--model.z-dim", "100"]
    done = run("--data.shards", str(faces), *flags, "--out", str(out))
    assert done.returncode == 0, done.stderr
    figures = measure(load_run(out), Arguments(run=out, shards=faces, other="glasses", samples=1024, trials=60))
    print(figures)
    assert min(figures.accuracy_smiling, figures.accuracy_other) > 0.9
    assert figures.smiling > figures.plain_smiling
    assert figures.smiling > figures.random_smiling + 0.2
