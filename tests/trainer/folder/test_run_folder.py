from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from shards.common.errors import InputError
from tests.support.launching import ROOT
from trainer.config import Config, Data, Model, flatten
from trainer.folder.run_folder import RunFolder, is_locked
from trainer.presets import PRESETS, parse
from trainer.status.__main__ import read_status


@contextmanager
def other_run(path: Path) -> Iterator[BaseProcess]:
    """Another process that trains in ``path``, with a child as a loader's worker is one."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def train() -> None:
        claim(path, Config())
        if child := os.fork():
            sender.send(child)
        time.sleep(60)

    process = context.Process(target=train)
    process.start()
    worker = receiver.recv()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        os.kill(worker, signal.SIGKILL)


def claim(path: Path, config: Config) -> RunFolder:
    """As a starting run does."""
    folder = RunFolder(path)
    with folder.lock(True):
        folder.check(config)
    folder.write_config(config)
    return folder


def test_only_one_process_trains_in_a_folder_and_a_killed_one_frees_it(tmp_path: Path) -> None:
    """At once: a worker that outlives its trainer by seconds does not hold the folder."""
    path = tmp_path / "run"
    with other_run(path) as process:
        before = (path / "config.yaml").read_bytes()
        with pytest.raises(InputError, match=f"Another process is training in {path}"):
            claim(path, dataclasses.replace(Config(), seed=5))
        assert (path / "config.yaml").read_bytes() == before
        process.kill()
        process.join()
        claim(path, Config())


def test_a_query_makes_no_starting_run_fail(tmp_path: Path) -> None:
    """The run waits until the query's lock, which another process holds for a moment, is gone."""
    path = tmp_path / "run"
    assert not is_locked(path)
    path.mkdir()
    code = (
        "import fcntl, sys, time; from trainer.folder.run_folder import LOCK, QUERY\n"
        "file = open(f'{sys.argv[1]}/{LOCK}', 'w+b'); fcntl.lockf(file, fcntl.LOCK_SH, 1, QUERY)\n"
        "print(flush=True); time.sleep(0.5)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as query:
        assert query.stdout and query.stdout.readline()
        claim(path, Config())
        assert query.wait() == 0
    with other_run(tmp_path / "other"):
        assert is_locked(tmp_path / "other")
    assert not is_locked(tmp_path / "other")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Lustre without its mount option: a run starts, and its status does not call it killed."""
    refusal = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr(fcntl, "lockf", refusal)
    with pytest.warns(UserWarning, match=f"{tmp_path} has no file locks.* option flock on Lustre"):
        folder = claim(tmp_path, Config())
    folder.write_status("running", 3, 4)
    assert is_locked(tmp_path) is None
    assert (read_status(tmp_path).state, read_status(tmp_path).alive) == ("running", None)
    refusal.side_effect = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(InputError, match=f"{tmp_path} cannot be written: Input/output error"):
        claim(tmp_path, Config())


def test_a_locked_folder_holds_its_config(tmp_path: Path) -> None:
    config = Config(data=Data(audit=Path("audit")), out=tmp_path / "a" / "run", epochs=0.5)
    folder = RunFolder(config.out)
    folder.check(config)
    assert not config.out.exists()
    claim(config.out, config)
    assert yaml.safe_load((config.out / "config.yaml").read_text()) == flatten(config)
    assert folder.samples.is_dir()
    folder.check(config)


def test_another_config_is_refused_with_every_difference(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    claim(tmp_path, Config())
    with pytest.raises(InputError) as caught:
        folder.check(Config(seed=3, model=Model(z_dim=5), batch_size=7, steps=9))
    text = str(caught.value)
    assert "model.z_dim: 100 -> 5" in text
    assert "seed: 0 -> 3" in text
    assert "batch_size" not in text
    assert "--out" in text
    folder.check(Config(batch_size=7, steps=9))


def test_a_setting_that_only_an_earlier_version_had_matters_if_it_was_set(tmp_path: Path) -> None:
    """Such as the last value of beta1, which runs without it recorded too."""
    folder, path = claim(tmp_path, Config()), tmp_path / "config.yaml"
    text = path.read_text()
    path.write_text(f"{text}schedule.beta1: null\n")
    folder.check(Config())
    assert folder.read_config() == Config()
    path.write_text(f"{text}schedule.beta1: 0.5\n")
    with pytest.raises(
        InputError, match=r"--schedule\.beta1 0\.5, which this version does not have\. Continue it with"
    ):
        folder.check(Config())


@pytest.mark.parametrize("damage", ["", "[1, 2]", "text", "a: [", "\x00"])
def test_a_config_that_is_none_is_an_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "config.yaml").write_text(damage)
    with pytest.raises(InputError, match=r"config\.yaml.* Delete it, and repeat the command"):
        RunFolder(tmp_path).check(Config())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Below a regular file not even root can write."""
    (tmp_path / "file").touch()
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(InputError, match=rf"{folder.path}.*[Nn]ot a directory"), folder.lock(True):
        pass
    folder.check(Config())
    with pytest.raises(InputError, match="cannot be written: it is a file"), RunFolder(tmp_path / "file").lock(True):
        pass


def test_an_error_leaves_no_folder_where_there_was_none(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path):
        with pytest.raises(InputError, match="a mistake"), RunFolder(path).lock(True):
            raise InputError("a mistake")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_stop_file_of_an_earlier_run_is_removed_and_one_for_this_is_not(tmp_path: Path) -> None:
    folder, now = RunFolder(tmp_path), time.time()
    folder.remove_old_stop(before=now)
    folder.stop.touch()
    folder.remove_old_stop(before=now - 60)
    assert folder.stop.exists()
    folder.remove_old_stop(before=now + 60)
    assert not folder.stop.exists()


def test_the_status_holds_state_step_and_position(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status("running", 3, 384)
    assert json.loads(folder.status.read_text()) == {"state": "running", "step": 3, "position": 384}
    folder.write_status("failed", 4, 512, error="disk")
    assert json.loads(folder.status.read_text()) == {"state": "failed", "step": 4, "position": 512, "error": "disk"}


def test_the_status_is_whole_at_any_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status("running", 0, 0)
    done = threading.Event()
    seen: list[dict[str, object]] = []

    def read() -> None:
        while not done.is_set():
            seen.append(json.loads(folder.status.read_text()))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(200):
        folder.write_status("running", step, 2 * step, note="x" * (step % 7) * 1000)
    done.set()
    reader.join()
    assert len(seen) > 20
    assert all(row["position"] == 2 * row["step"] for row in seen)  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == [folder.status]


@pytest.mark.parametrize("before", PRESETS)
def test_the_error_about_another_config_has_the_flags_that_continue_the_run(before: str, tmp_path: Path) -> None:
    """As after an upgrade that changed a preset."""
    old = dataclasses.replace(PRESETS[before][1], out=tmp_path / "run", ema_images=123, loss="minimax")
    claim(old.out, old)
    folder, words = RunFolder(old.out), ["faces", "--data.no-flip", "--seed", "7", "--out", str(old.out)]
    with pytest.raises(InputError, match="another config") as caught:
        folder.check(parse(words)[1])
    flags = str(caught.value).rpartition("that one: ")[2].split()
    folder.check(parse([*words, *flags])[1])
