"""Where the time of a sample goes."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import simplejpeg
import xxhash

from benchmarks import sample
from benchmarks.sample import BARE, DECODER, WHOLE, Arguments, benchmark, create_steps, measure
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from shards.loading.reader import GROUP, Reader
from shards.sources.faces import Faces
from shards.storage.local import LocalStorage


@pytest.fixture(scope="module", params=["jpg", "npy"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "out"
    build(Faces(20), folder, Options(size=32, format=request.param), workers=1)
    return folder


def test_each_step_does_alone_what_the_whole_does(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often, and nothing else."""
    calls: Counter[str] = Counter()

    def count(place: Any, name: str) -> None:
        original = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, **more: calls.update([name]) or original(*args, **more))

    count(LocalStorage, "read")
    count(xxhash, "xxh3_64_intdigest")
    count(simplejpeg, "decode_jpeg")
    decoded = ["decode_jpeg"] if read_manifest(shards).format == "jpg" else []
    wanted = {"look-up of place and index": [], "read": ["read"], "digest": ["xxh3_64_intdigest"], BARE: decoded,
              DECODER: decoded, WHOLE: ["read", "xxh3_64_intdigest", *decoded]}  # fmt: skip
    with closing(Reader(shards, lanes=8)) as reader:
        steps = create_steps(shards, reader, 8)
        for name, step in steps.items():
            calls.clear()
            step()
            assert calls == dict.fromkeys(wanted.pop(name), 8 * GROUP)
    assert not wanted


def test_each_time_is_the_least_of_all_turns_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Microseconds per sample: two steps on 10 samples, with a clock that the steps set."""
    clock, spent = [0.0], iter([9.0, 1.0, 5.0, 4.0, 3.0, 6.0])
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def step() -> None:
        clock[0] += next(spent)

    assert measure({"one": step, "other": step}, 10, 2) == {"one": 3e5, "other": 4e5}


def test_the_report_has_all_steps_and_the_rest(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is what the steps leave of the whole: 100 - (10 + 20 + 5 + 40) - 8 for the checks of the decoder."""
    times = dict(zip((WHOLE, "look-up", "read", "digest", BARE, DECODER), (100, 10, 20, 5, 40, 48), strict=True))
    monkeypatch.setattr(sample, "measure", lambda *_: dict(times))
    benchmark(Arguments(shards=shards, batch_size=8, json=tmp_path / "x.json"))
    found = json.loads((tmp_path / "x.json").read_text())["microseconds"]
    assert [*found.values()] == [10, 20, 5, 40, 8, 17, 100] and "100%" in capsys.readouterr().out.splitlines()[-1]


def test_other_formats_are_refused(tmp_path: Path) -> None:
    build(Faces(4), tmp_path / "out", Options(size=32, format="png"), workers=1)
    with pytest.raises(InputError, match="holds images of the format png; this needs jpg or npy"):
        benchmark(Arguments(shards=tmp_path / "out"))
