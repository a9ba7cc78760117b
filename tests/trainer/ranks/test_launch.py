from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.launching import ROOT, SMALL, start
from trainer.ranks.launch import Launch, read_launch

VARIABLES = ("ACCELERATE_USE_CPU", "ACCELERATE_MIXED_PRECISION", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher, and a GPU."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return monkeypatch


def test_without_a_launcher_it_is_one_rank(bare: pytest.MonkeyPatch) -> None:
    assert read_launch() == Launch(rank=0, ranks=1, local_ranks=1, cpu=False, precision="no")
    bare.setattr(torch.cuda, "is_available", lambda: False)
    assert read_launch().cpu


def test_the_launchers_environment_is_read(bare: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("false", "bf16", "8", "5", "4"), strict=True):
        bare.setenv(name, value)
    assert read_launch() == Launch(rank=5, ranks=8, local_ranks=4, cpu=False, precision="bf16")
    bare.delenv("LOCAL_WORLD_SIZE")
    assert read_launch().local_ranks == 8


@pytest.mark.parametrize("word", ["true", "True", "1", "yes"])
def test_the_cpu_can_be_asked_for(bare: pytest.MonkeyPatch, word: str) -> None:
    bare.setenv("ACCELERATE_USE_CPU", word)
    assert read_launch().cpu


CHILD = """
from trainer.ranks.launch import find_launcher, launch_time, requested_ranks
print(requested_ranks(), find_launcher() is not None, launch_time())
"""


def under(*arguments: str) -> list[str]:
    """What :data:`CHILD` prints below a process whose command line is ``python -c CODE *arguments``."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [
        ("--num_processes 3", "3"),
        ("--num-processes=4", "4"),
        ("--num_processes 2 --num_processes=5", "5"),
        ("--num_processes 0", "None"),
        ("--cpu", "None"),
    ],
)
def test_the_launchers_command_line_is_read(arguments: str, ranks: str) -> None:
    before = time.time()
    requested, found, launched = under("accelerate", "launch", *arguments.split())
    assert (requested, found) == (ranks, "True")
    assert before - 1 < float(launched) < time.time()


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
