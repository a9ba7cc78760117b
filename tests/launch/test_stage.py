"""Shards are copied to a node's disk, where other users may have been before."""

from __future__ import annotations

import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from shards.format.manifest import read_manifest
from shards.loading.dataset import ShardDataset
from tests.support.launching import ROOT
from tests.support.make import make_shards

OTHER_USER = 54321


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path / "shards")
    return tmp_path / "shards"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start(shards: Path, copy: Path) -> subprocess.Popen[str]:
    words = ["bash", "launch/stage.sh", str(shards), str(copy)]
    return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def stage(shards: Path, copy: Path) -> tuple[int, str]:
    process = start(shards, copy)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said


def test_a_copy_is_made_once_and_again_when_files_of_it_are_gone(shards: Path, tmp_path: Path) -> None:
    disk = tmp_path / "new" / "disk"
    copy = disk / "shardgan-0" / "shards-123"
    both = [start(shards, copy) for _ in range(2)]  # two jobs on a node
    assert [process.communicate(timeout=60)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert ShardDataset(copy)[0].images.shape == (1, 32, 32, 1) and copy.parent.stat().st_mode & 0o777 == 0o700
    before = (copy / "manifest.json").stat().st_ino
    assert stage(shards, copy) == (0, "") and (copy / "manifest.json").stat().st_ino == before
    for name, damage in product(("manifest.json", "shard-00001.tar"), ("gone", "cut")):
        (copy / name).unlink() if damage == "gone" else os.truncate(copy / name, 10)
        (copy.parent / "shards-123.part").mkdir()  # of a job that was killed
        (copy.parent / "shards-123.part" / "more").touch()
        assert stage(shards, copy) == (0, "")
        assert read_manifest(copy) == read_manifest(shards) and names(copy) == names(shards)
        assert (copy / name).read_bytes() == (shards / name).read_bytes()
        assert names(copy.parent) == {"shards-123", "shards-123.lock"}


@pytest.mark.parametrize("planted", ["owner", "link", "dangling", "group", "world", "file"])
def test_a_folder_that_another_user_could_fill_is_refused(planted: str, shards: Path, tmp_path: Path) -> None:
    private, victim = tmp_path / "disk" / "shardgan-0", tmp_path / "victim"
    private.parent.mkdir(mode=0o1777)
    shutil.copytree(shards, victim / "copy")
    if planted == "file":
        private.touch()
    elif planted in {"link", "dangling"}:
        private.symlink_to(victim if planted == "link" else tmp_path / "nowhere")
    else:
        shutil.copytree(shards, private / "copy")
        private.chmod({"owner": 0o700, "group": 0o770, "world": 0o705}[planted])
    if planted == "owner":
        if os.getuid():
            pytest.skip("giving a folder to another user needs root")
        os.chown(private, OTHER_USER, OTHER_USER)
    code, said = stage(shards, private / "copy")
    assert code == 2 and said == (
        f"error: {private} must be your own folder, closed to others (chmod 700), or not exist yet\n"
    )
    assert not list(victim.glob("*.lock")) and not (tmp_path / "nowhere").exists()


def test_a_copy_that_fails_is_not_taken_for_one(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "disk" / "shardgan-0" / "copy"
    assert stage(shards, copy)[0] == 0
    (copy.parent / "copy.part").mkdir()
    old = names(copy)
    code, said = stage(tmp_path / "nothing", copy)
    assert code == 1 and "No such file" in said
    assert names(copy.parent) == {"copy", "copy.lock"} and names(copy) == old


def test_a_disk_without_locks_is_a_warning(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flock").write_text("#!/bin/sh\nexit 65\n")  # as util-linux's does where the system has no locks
    (tmp_path / "flock").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    copy = tmp_path / "disk" / "shardgan-0" / "shards-123"
    code, said = stage(shards, copy)
    assert code == 0 and said.startswith(f"warning: {copy.parent} has no file locks") and names(copy) == names(shards)
