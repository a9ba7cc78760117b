from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from tests.support.launching import ROOT, SMALL, start, wait_for_step
from tests.trainer.report.make import lines, result
from trainer.config import Config, flatten
from trainer.folder.run_folder import RunFolder
from trainer.status.__main__ import describe, main, read_state, read_status

ROW = {
    "step": 40, "images": 5120, "epoch": 0.5, "loss/d": 0.7, "loss/g": 1.2, "score/real": 0.6, "score/fake_before": 0.4,
    "score/fake_after": 0.3, "speed/images_per_second": 128.0, "data/wait": 0.05,
}  # fmt: skip


def make(folder: Path, state: str, **more: Any) -> Path:
    """A run folder as the trainer writes it."""
    for name in (
        "checkpoints/step-000000020",
        "checkpoints/step-000000040",
        "checkpoints/.step-000000041.partial",
        "samples",
    ):
        (folder / name).mkdir(parents=True)
    for name in ("real", "step-000000000", "step-000000040"):
        (folder / "samples" / f"{name}.png").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump(flatten(Config(out=folder, steps=100))))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ({"step": 20}, ROW)) + '{"torn')
    RunFolder(folder).write_status(state, 40, 5120, **more)  # type: ignore[arg-type]
    return folder


def test_a_run_in_lines_and_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "preempted")
    assert main([str(run)]) == 0
    output, warned = capsys.readouterr()
    assert warned == f"warning: {run}/metrics.jsonl: 1 of the last 3 lines is damaged and left out.\n"
    assert output.startswith(f"{run}: preempted, 40 of 100 steps, epoch 0.50\n")
    assert "D 0.700, G 1.200, D(x) 0.60, D(G(z)) 0.40/0.30, 128 img/s, wait 5%" in output
    assert "step-000000040, 0:00:0" in output and str(run / "samples" / "step-000000040.png") in output
    assert main([str(run), str(run), "--json"]) == 0
    statuses = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(statuses) == 2
    assert (statuses[0]["state"], statuses[0]["alive"], statuses[0]["figures"]) == ("preempted", False, ROW)


def test_epochs_are_turned_into_steps_and_an_error_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "failed", error="The disk is full.")
    (run / "config.yaml").write_text(yaml.safe_dump(flatten(Config(out=run, epochs=2))))
    assert main([str(run)]) == 0
    output = capsys.readouterr().out
    assert "failed, 40 of 160 steps" in output and "error       The disk is full." in output


def test_running_without_a_process_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(make(tmp_path / "run", "running"))]) == 0
    output = capsys.readouterr().out
    assert (
        "killed, 40 of 100 steps" in output
        and "the same command resumes from the last checkpoint" in output
        and " left" not in output
    )


def test_the_state_is_read_without_the_journals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "preempted", warnings=["step 9: It went wrong."])
    status = read_status(run)
    assert capsys.readouterr().err
    for name in ("metrics.jsonl", "config.yaml", "scores.jsonl", "environment.jsonl"):
        (run / name).write_bytes(b"damaged")
    state = read_state(run)
    assert vars(state).items() <= vars(status).items() and state.warnings
    assert capsys.readouterr().err == ""


def test_the_time_left_depends_on_the_present_batch_size_and_on_evaluations(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "running")  # 40 steps of 128 images; the other steps have 256
    (run / "config.yaml").write_text(yaml.safe_dump(flatten(Config(out=run, steps=100, batch_size=256))))
    with alive(run):
        assert read_status(run).eta_seconds == 60 * 256 / 128
        (run / "metrics.jsonl").write_text(json.dumps({**ROW, "speed/evaluation": 0.5}) + "\n")
        assert read_status(run).eta_seconds == 2 * 60 * 256 / 128
        (run / "metrics.jsonl").write_text(json.dumps({**ROW, "speed/images_per_second": 0}) + "\n")
        assert read_status(run).eta_seconds is None


def test_a_row_may_lack_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "done")
    with (run / "metrics.jsonl").open("w") as file:
        file.write('{"step": 40, "loss/d": 0.5}\n')
    assert main([str(run)]) == 0
    assert "  figures     D 0.500\n" in capsys.readouterr().out


@pytest.fixture
def live(faces32: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    out = tmp_path / "run"
    process = start("--data.shards", str(faces32), "--out", str(out), "--steps", "1000000", *SMALL)
    try:
        wait_for_step(out, 10, process)
        yield out, process
    finally:
        with suppress(ProcessLookupError):  # a test killed it
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_live_run_is_not_disturbed_and_then_seen_killed(
    live: tuple[Path, subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, process = live
    command = [sys.executable, "-X", "importtime", "-m", "trainer.status", str(run), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    status = json.loads(done.stdout)
    assert (status["state"], status["alive"], status["steps"]) == ("running", True, 1_000_000)
    assert status["eta_seconds"] > 0 and process.poll() is None
    assert " torch" not in done.stderr
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert main([str(run)]) == 0
    assert "killed" in capsys.readouterr().out


@contextmanager
def alive(run: Path) -> Iterator[None]:
    """Let another process hold the lock of ``run``."""
    code = (
        "import sys; from pathlib import Path; from trainer.folder.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock(True): print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        yield
        other.communicate()


def test_a_run_that_has_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alive(tmp_path):
        assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: starting (a process is starting or ending), 0 steps\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (None, "", "no such folder"),
        ("other", "", "is not a run folder"),
        ("status.json", "{", "is not a run's status"),
        ("status.json", "[]", "is not a run's status"),
        ("status.json", '{"state": "running"}', "repeat the command that started the run"),
        ("status.json", '{"state": "done", "step": "x", "position": null}', "is not a run's status"),
        ("status.json", '{"state": "done", "step": 1e400, "position": 0}', "is not a run's status"),
        ("status.json", "\x00\x8b", "is not a run's status"),
    ],
)
def test_bad_input_is_one_line(
    name: str | None, text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    if name:
        run.mkdir()
        (run / name).write_text(text)
    assert main([str(run)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and expected in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "row",
    ['{"step": "x", "epoch": 0, "loss/d": [1]}', '"text"', "garbage", '{"images": NaN, "epoch": 1}'],
)
def test_damaged_figures_and_configs_hide_no_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: str
) -> None:
    run = make(tmp_path / "run", "done")
    (run / "config.yaml").write_text(yaml.safe_dump(flatten(Config(out=run, epochs=2))))
    (run / "metrics.jsonl").write_text(f"{row}\n")
    assert main([str(run)]) == 0
    (run / "config.yaml").write_bytes(b"\x00\x8b")
    assert main([str(run)]) == 0
    assert capsys.readouterr().out.count("done, 40 steps") == 2


def test_checkpoints_that_cannot_be_listed_hide_no_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "done")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    (run / "checkpoints").symlink_to("checkpoints")
    assert main([str(run)]) == 0
    said = capsys.readouterr()
    assert "done, 40 of 100 steps" in said.out and "best" not in said.out
    assert f"warning: {run}/checkpoints cannot be read ({os.strerror(errno.ELOOP)})" in said.err


def test_the_help_requires_a_run_and_a_file_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "[-h] RUN [RUN ...] [--json]" in capsys.readouterr().out
    (tmp_path / "x").touch()
    assert main([str(tmp_path / "x")]) == 2
    assert f"{tmp_path / 'x'} is a file. Name the folder of a run" in capsys.readouterr().err


def test_an_error_of_one_run_does_not_hide_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "run", "done")
    assert main([str(tmp_path / "nowhere"), str(run)]) == 2
    out, err = capsys.readouterr()
    assert out.startswith(f"{run}: done") and err.count("error: ") == 1 and "nowhere" in err


def test_scores_are_against_the_runs_own_images_and_the_best_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others, of an evaluation by hand, are not comparable; damaged lines hide none."""
    run = make(tmp_path / "run", "done")
    rows = [result(20, {"swd": 5.0}), result(40, {"swd": 6.0, "ms-ssim": 0.3}), result(10, {"swd": 1.0})]
    by_hand = [result(step, {"swd": 2.0}) | {"data": "test"} for step in (10, 20, 40, 30)]
    (run / "scores.jsonl").write_text(lines([*rows, *by_hand]) + "damaged\n")
    (run / "environment.jsonl").write_text(f'damaged\n{{"step": 0, "data.digest": "{rows[0]["data"]}"}}\n')
    status = read_status(run)
    assert (status.scored, status.scores) == ("step-000000040", {"swd": 6.0, "ms-ssim": 0.3})
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"warning: {run}/environment.jsonl: line 1 is damaged and left out.",
        f"warning: {run}/scores.jsonl: line 8 is damaged and left out.",
    ]
    (run / "scores.jsonl").write_text(lines(rows))
    status = read_status(run)
    assert (status.best, status.best_score) == ("step-000000020", {"swd": 5.0})
    assert "\n  best        step-000000020 (swd 5)\n" in describe(status)


def test_ctrl_c_in_one_run_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(run: Path) -> NoReturn:
        print(run)
        raise KeyboardInterrupt

    monkeypatch.setattr("trainer.status.__main__.read_status", interrupt)
    assert main([str(tmp_path / "first"), str(tmp_path / "second")]) == 130
    assert capsys.readouterr() == (f"{tmp_path / 'first'}\n", "")


def test_no_run_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1
