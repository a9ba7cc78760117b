"""The command that runs all that needs a GPU, on a machine without one."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch
import tyro

from benchmarks import gpu
from benchmarks.gpu import GOALS, Arguments, Part, Row, parts, read_compiled, read_step, read_tests, table
from benchmarks.gpu import run as run_parts
from benchmarks.rivals.contestants import AUTOCAST, EXAMPLE
from tests.support.launching import run


def read_words(path: Path) -> list[Row]:
    return [Row("words", path.read_text())]


def part(name: str, script: str, path: Path, seconds: float = 60) -> Part:
    return Part(name, [sys.executable, "-c", script, str(path)], seconds, read_words)


WRITE = "import sys; from pathlib import Path; print('noise'); Path(sys.argv[1]).write_text('done')"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_it_says_so_and_does_nothing() -> None:
    done = run(words=[sys.executable, "-m", "benchmarks.gpu"])
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: This command needs a GPU") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("bf16", [True, False])
def test_the_parts_fit_ten_minutes_and_bf16_runs_where_it_exists(bf16: bool, tmp_path: Path) -> None:
    found = parts(Arguments(features=16), tmp_path, bf16=bf16)
    compiled = [part.command for part in found if "--compile" in part.command]
    steps = [part.command for part in found if "benchmarks.step" in part.command and part.command not in compiled]
    assert sum(part.seconds for part in found) < 600
    assert {"pytest", "-m", "gpu"} < {*found[0].command}
    assert {Path(word).name for word in found[0].command if "/test_" in word} >= {"test_cuda.py", "test_cuda_graph.py"}
    wanted = {("128", "float32")} | ({("128", "bf16"), ("1024", "bf16")} if bf16 else {("1024", "float32")})
    value = lambda words, flag: words[words.index(flag) + 1]  # noqa: E731
    assert {(value(words, "--batch-size"), value(words, "--precision")) for words in steps} == wanted
    assert all(value(part.command, "--features") == "16" for part in found[1:])
    assert [value(words, "--precision") for words in compiled] == ["bf16" if bf16 else "float32"]
    assert compiled == [found[-1].command], "it may take all the time that is left"
    assert "benchmarks.run" in {word for part in found for word in part.command}
    assert len({part.command[-1] for part in found}) == len(found), "each has a file of its own"
    for part in found[1:]:
        module = importlib.import_module(part.command[2])
        assert tyro.cli(module.Arguments, args=part.command[3:]).json == Path(part.command[-1])


def test_a_part_that_fails_hangs_or_comes_too_late_is_a_row(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hang = "import time; time.sleep(600)"
    several = [
        part("good", WRITE, tmp_path / "good"),
        part("bad", "raise SystemExit('no luck')", tmp_path / "bad"),
        part("hangs", hang, tmp_path / "hangs", seconds=0.5),
        part("good too", WRITE, tmp_path / "too"),
    ]
    assert [(row.figure, row.failed) for row in run_parts(several, 60)] == [
        ("done", False), ("failed; its output is above", True), ("stopped after 0 s", True), ("done", False)
    ]  # fmt: skip
    said = capfd.readouterr()
    assert not said.out and "no luck" in said.err and "noise" in said.err, "standard output is the table's"
    start = time.monotonic()
    rows = [*run_parts([part("hangs", hang, tmp_path / "late"), part("late", WRITE, tmp_path / "late")], 1)]
    assert [row.figure for row in rows] == ["stopped after 1 s", "not begun: no time was left"]
    assert all(row.goal.endswith("missed") and row.failed for row in rows) and time.monotonic() - start < 20


TESTS = """
import pytest
@pytest.mark.parametrize("good", [True, False])
def test_something(good): assert good
def test_skipped(): pytest.skip("not here")
"""


def test_the_results_of_pytest_are_counted(tmp_path: Path) -> None:
    """Those of a real pytest."""
    (tmp_path / "test_it.py").write_text(TESTS)
    report = tmp_path / "out.xml"
    run(words=[sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", str(tmp_path),
               "--junitxml", str(report)])  # fmt: skip
    assert read_tests(report) == [
        Row("tests", "1 passed, 1 failed, 1 skipped", "all: missed", failed=True),
        Row("failed test", "`test_something[False]`", failed=True),
    ]
    report.write_text("<testsuites><testsuite><testcase name='a'/></testsuite></testsuites>")
    assert read_tests(report) == [Row("tests", "1 passed", "all: reached")]
    report.write_text("<testsuites><testsuite></testsuite></testsuites>")
    assert read_tests(report) == [Row("tests", "0 passed", "all: missed", failed=True)], "none ran"


@pytest.mark.parametrize(("failed", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_tells_whether_a_part_failed(
    failed: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the table and the file; a goal that is missed is no failure."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    rows = [Row("speed", "5x", "6x: missed"), Row("tests", "3 passed", "all: reached", failed=failed)]
    for name, stub in {"run": rows, "parts": [], "describe_gpu": "one GPU", "has_bf16": True}.items():
        monkeypatch.setattr(gpu, name, lambda *_, stub=stub, **__: stub)
    monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(tmp_path / "out.json")])
    try:
        found = gpu.cli.main(Arguments, gpu.benchmark, "")
    except SystemExit as end:
        found = int(str(end.code))
    assert found == code and "| speed | 5x | 6x: missed |" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 2


@pytest.mark.parametrize(("ours", "ends"), [(0.01, "reached"), (0.02, "missed")])
def test_goals_stand_beside_the_figures_of_bf16(ours: float, ends: str, tmp_path: Path) -> None:
    medians = {EXAMPLE: 0.06, AUTOCAST: 0.025, "shardgan, bf16, CUDA graph": ours}
    figures = {"arguments": {"batch_size": 128, "features": 64, "precision": "bf16"}, "median": medians, "rate": 1e14}
    (tmp_path / "out.json").write_text(json.dumps(figures))
    goals = {row.measurement: row.goal for row in read_step(tmp_path / "out.json")}
    for rival, goal in GOALS[128].items():
        assert goals[f"batch 128, shardgan, bf16, CUDA graph: relative to {rival}"] == f"{goal:g}x: {ends}"
    assert sum(bool(goal) for goal in goals.values()) == len(GOALS[128])
    assert not read_compiled(tmp_path / "out.json")
    figures["median"] = {**medians, "shardgan, bf16, compiled": ours}
    (tmp_path / "out.json").write_text(json.dumps(figures))
    compiled = read_compiled(tmp_path / "out.json")
    assert len(compiled) == 4 and all("shardgan, bf16, compiled" in row.measurement for row in compiled)
    figures["arguments"] |= {"precision": "float32"}
    (tmp_path / "out.json").write_text(json.dumps(figures))
    assert not any(row.goal for row in read_step(tmp_path / "out.json"))


def test_the_table_is_markdown() -> None:
    lines = table([Row("tests", "3 passed", "all: reached"), Row("rate", "5 TFLOP/s")], "One GPU, 2026").splitlines()
    assert lines[0] == "One GPU, 2026" and lines[1] == ""
    assert lines[2:4] == ["| measurement | figure | goal |", "| --- | --- | --- |"]
    assert {line.count("|") for line in lines[2:]} == {4} and len(lines) == 6
