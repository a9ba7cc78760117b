"""Where the time of a sample goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sample import WHOLE, Arguments, benchmark
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.sources.faces import Faces


@pytest.mark.parametrize("format", ["jpg", "npy"])
def test_the_steps_add_up_to_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str) -> None:
    build(Faces(20), tmp_path / "out", Options(size=32, format=format), workers=1)  # type: ignore[arg-type]
    benchmark(Arguments(shards=tmp_path / "out", batch_size=8, rounds=2, json=tmp_path / "x.json"))
    found = json.loads((tmp_path / "x.json").read_text())["microseconds"]
    whole = found.pop(WHOLE)
    assert sum(found.values()) == pytest.approx(whole) and whole > 1
    assert "100%" in capsys.readouterr().out.splitlines()[-1]


def test_other_formats_are_refused(tmp_path: Path) -> None:
    build(Faces(4), tmp_path / "out", Options(size=32, format="png"), workers=1)
    with pytest.raises(InputError, match="holds images of the format png; this needs jpg or npy"):
        benchmark(Arguments(shards=tmp_path / "out"))
