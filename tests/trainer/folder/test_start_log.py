from __future__ import annotations

from pathlib import Path

import pytest

from trainer.folder.start_log import read_starts, record_start, summarise

START = {"step": 0, "ranks": 2, "hosts": ["a", "b"], "devices": ["NVIDIA H100"], "precision": "bf16", "torch": "2.15.0",
         "code.commit": "0123456789abcdef", "code.dirty": True}  # fmt: skip


def test_each_start_has_a_line_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "environment.jsonl"
    assert read_starts(path) == []
    for step in (0, 40):
        record_start(path, {**START, "step": step})
    starts = read_starts(path)
    assert [start.pop("time")[-3:] for start in starts] == ["UTC", "UTC"]
    assert starts == [START, {**START, "step": 40}]


def test_lines_that_cannot_be_read_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "environment.jsonl"
    path.write_bytes(b'\xff\xfe\n[1]\n"text"\nnull\n{"step": 0, "ranks": 1}\n{"step": 4')
    assert read_starts(path) == [{"step": 0, "ranks": 1}]
    assert capsys.readouterr().err == f"warning: {path}: lines 1, 2, 3, 4, 6 are damaged and left out.\n"


def test_a_summary_leaves_out_what_is_not_known() -> None:
    assert summarise(START) == "2 ranks on NVIDIA H100, at a, b, bf16, torch 2.15.0, commit 0123456789 with changes"
    assert summarise({"ranks": 1, "devices": ["x86_64 CPU"], "precision": "no"}) == "1 rank on x86_64 CPU"
    assert summarise({"ranks": None, "hosts": 3}) == "at 3"
