from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.launching import ROOT, SMALL, start

CHILD = (
    "from trainer.ranks import launcher; print(launcher.asked_ranks(), launcher.find() is not None, launcher.began())"
)


def under(*words: str) -> list[str]:
    """What a process says whose parent's command line is ``python -c CODE *words``."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "ranks"),
    [
        ("--num_processes 3", "3"),
        ("--num-processes=4", "4"),
        ("--num_processes 2 --num_processes=5", "5"),
        ("--num_processes 0", "None"),
        ("--cpu", "None"),
    ],
)
def test_the_launchers_command_line_is_read(words: str, ranks: str) -> None:
    before = time.time()
    asked, found, began = under("accelerate", "launch", *words.split())
    assert (asked, found) == (ranks, "True")
    assert before - 1 < float(began) < time.time()


def test_without_a_launcher_there_is_none() -> None:
    assert under("some", "script", "--num_processes", "3")[:2] == ["None", "False"]


def scripts(launcher: psutil.Process) -> list[psutil.Process]:
    """The trainers that it has started; it has other children for moments, such as ``uname``."""
    found = []
    for child in launcher.children():
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if "trainer/run.py" in words and "accelerate.commands.launch" not in words:
                found.append(child)
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_launcher_killed_before_its_script_heard_of_it_leaves_no_orphan(
    ranks: int, faces32: Path, tmp_path: Path
) -> None:
    several = ("--multi_gpu", "--main_process_port", "0") if ranks > 1 else ()
    process = start(
        *SMALL, "--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "1000000",
        launcher=(*several, "--num_processes", str(ranks)), env={"ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    family = psutil.Process(process.pid)
    while len(children := scripts(family)) < ranks:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    said, _ = process.communicate(timeout=60)  # when nobody holds the pipe any more
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert "accelerate launch, which started this, is gone" in said
    assert not (tmp_path / "run").exists()
