from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from shards.common.files import atomic_folder, atomic_write, create_once, file_lock, recover_folder


def test_the_file_appears_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:  # noqa: PT012  the block is what is tested
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """The real refusal of the kernel, at a limit on the size of files."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught, atomic_write(path) as file:
            file.write(bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "x"):
        pass


def test_of_those_who_create_a_file_at_once_one_does(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with ThreadPoolExecutor(16) as pool:
        seen = set(pool.map(lambda number: create_once(path, b"%d" % number * 1000), range(64)))
    assert seen == {path.read_bytes()} and len(seen.pop()) >= 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EROFS])
def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "x"

    def refuse(_: Path, target: Path) -> NoReturn:
        raise OSError(number, "no", str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    if number == errno.EROFS:
        with pytest.raises(OSError) as caught:
            create_once(path, b"x")
        assert caught.value.filename == str(path) and not list(tmp_path.iterdir())
    else:
        assert create_once(path, b"x") == create_once(path, b"y") == b"x"
        assert list(tmp_path.iterdir()) == [path]


def test_shared_locks_exclude_exclusive_ones_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, order = tmp_path / "lock", list[str]()

    def hold(shared: bool) -> None:
        with file_lock(path, shared=shared, waiting=f"waiting, shared {shared}"):
            order.append(f"shared {shared}")

    with ThreadPoolExecutor(2) as pool:
        with file_lock(path, shared=True):
            pool.submit(hold, True).result(10)
            exclusive = pool.submit(hold, False)
            deadline = time.monotonic() + 10
            while not (said := capfd.readouterr().err) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert said == "waiting, shared False" and order == ["shared True"]
        exclusive.result(10)
        with file_lock(path):
            shared = pool.submit(hold, True)
            with pytest.raises(TimeoutError):
                shared.result(0.2)
    assert order == ["shared True", "shared False", "shared True"]


def replace(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "x").write_text(text)
        assert not path.exists() or (path / "x").read_text() != text


def test_a_folder_appears_at_the_end_only_and_whole(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "f")
    for text in ("old", "new"):
        replace(tmp_path / "link", text)
        assert (tmp_path / "f" / "x").read_text() == text
    assert {*tmp_path.iterdir()} == {tmp_path / "f", tmp_path / "link"} and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("renames", [0, 1])
def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    replace(tmp_path / "f", "old")
    rename, done = Path.rename, []

    def refuse(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == renames + 1:
            raise OSError(errno.EIO, "no", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError):
        replace(tmp_path / "f", "new")
    assert (tmp_path / "f" / "x").read_text() == "old" and [*tmp_path.iterdir()] == [tmp_path / "f"]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets the system refuse to sync folders or files, or to lock, with an error number."""
    fsync = os.fsync

    def answer(number: int, *_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    def set_refused(number: int, what: str) -> None:
        def sync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (what == "folders"):
                answer(number)
            fsync(descriptor)

        if what == "locks":
            monkeypatch.setattr(fcntl, "flock", partial(answer, number))
        else:
            monkeypatch.setattr(os, "fsync", sync)

    return set_refused


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_file_system_that_cannot_sync_folders(tmp_path: Path, refuse: Callable[..., None], number: int) -> None:
    """CIFS and some FUSE file systems."""
    refuse(number, "folders")
    with atomic_write(tmp_path / "x") as file:
        file.write(b"new")
    replace(tmp_path / "f", "new")
    assert (tmp_path / "x").read_bytes() == b"new" and (tmp_path / "f" / "x").read_text() == "new"


@pytest.mark.parametrize("what", ["folders", "files"])
def test_a_failing_disk_is_an_error_that_names_the_path(tmp_path: Path, refuse: Callable[..., None], what: str) -> None:
    replace(tmp_path / "f", "old")
    refuse(errno.EIO, what)
    with pytest.raises(OSError) as caught:
        replace(tmp_path / "f", "new")
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "f"))
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "x"):
        pass
    named = tmp_path / "x" if what == "files" else tmp_path
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(named))
    assert (tmp_path / "f" / "x").read_text() == "old" and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, 524])
def test_a_file_system_without_locks_is_a_warning(tmp_path: Path, refuse: Callable[..., None], number: int) -> None:
    refuse(number, "locks")
    why = rf"{tmp_path} has no file locks \({os.strerror(number)}\).* option flock on Lustre"
    with pytest.warns(UserWarning, match=why), file_lock(tmp_path / "lock"):
        pass
    with file_lock(tmp_path / "lock"):  # no second warning, which would be an error here
        pass
    refuse(errno.EIO, "locks")
    with pytest.raises(OSError, match="Input/output"), file_lock(tmp_path / "lock"):
        pass


KILLED = """
import os, sys
from pathlib import Path
from shards.common.files import atomic_folder
rename, left = Path.rename, int(sys.argv[2])
def dying(path, target):
    global left
    left -= 1
    return os._exit(9) if left < 0 else rename(path, target)
Path.rename = dying
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "x").write_text("new")
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_a_kill_before_any_rename_loses_nothing(tmp_path: Path, renames: int) -> None:
    replace(tmp_path / "f", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "f"), str(renames)], check=False)
    assert done.returncode == 9 and len([*tmp_path.iterdir()]) == 2
    recover_folder(tmp_path / "f")
    assert (tmp_path / "f" / "x").read_text() == "old" and [*tmp_path.iterdir()] == [tmp_path / "f"]
