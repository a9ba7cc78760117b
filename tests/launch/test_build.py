"""The job that builds a part, as far as it runs without SLURM; ``tests/system/test_slurm.py`` has the rest."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.launching import ROOT

JOB = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "2", "SLURM_CPUS_ON_NODE": "3",
       "SLURMD_NODENAME": "n2", "PYTHON": "true"}  # fmt: skip


def start(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """On a node whose ``srun`` prints what it is to run."""
    (folder / "srun").write_text('#!/bin/sh\necho srun "$@"\n')
    (folder / "srun").chmod(0o755)
    env = {**os.environ, **JOB, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", "launch/build.sbatch", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "form"),
    [
        ("", "KIND RAW OUT"),
        ("folder", "KIND RAW OUT"),
        ("folder raw --size 64", "KIND RAW OUT"),
        ("--size 64 folder raw out", "KIND RAW OUT"),
        ("folder raw out more", "KIND RAW OUT"),
        ("faces", "faces OUT"),
        ("faces --count 9", "faces OUT"),
        ("faces raw out", "faces OUT"),
    ],
)
def test_a_missing_word_is_told_before_anything_is_built(words: str, form: str, tmp_path: Path) -> None:
    """Without OUT, the parts would be built into the raw images."""
    done = start(words.split(), tmp_path)
    assert done.returncode == 2 and not done.stdout
    assert f"error: give {form} first, then the flags" in done.stderr


@pytest.mark.parametrize("words", ["faces out --count 9", "folder raw out --size 64"])
def test_a_part_is_built_with_the_words_of_the_command(words: str, tmp_path: Path) -> None:
    done = start(words.split(), tmp_path)
    kind, _, rest = words.partition(" ")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        f"srun --cpu-bind=none true -m shards build {kind} --workers 3 {rest} --part 2 --parts 2"
    )
