"""The command, on data that are not there, and with names that are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import claims, ordering
from benchmarks.measure import cli
from tests.support.make import make_shards


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, of: object = claims) -> str:
    monkeypatch.setattr(sys, "argv", ["study", *words])
    assert cli.main(of.Arguments, of.benchmark, of.__doc__) == 2  # type: ignore[attr-defined]
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_bad_input_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_shards(tmp_path / "shards")
    monkeypatch.delenv("SHARDGAN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "set SHARDGAN_DATA" in fail(monkeypatch, capsys)
    assert "no-batch-norm" in fail(monkeypatch, capsys, "--only", "foo")
    assert "--images is 0" in fail(monkeypatch, capsys, "--images", "0")
    shards = ("--shards", str(tmp_path / "shards"))
    assert "640 are" in fail(monkeypatch, capsys, *shards, "--images", "641")
    assert "at least 100" in fail(monkeypatch, capsys, *shards, "--samples", "10")
    assert "nowhere" in fail(monkeypatch, capsys, "--shards", "nowhere")
    assert "do not ascend" in fail(monkeypatch, capsys, *shards, "--steps", "9", "3", of=ordering)
