from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shards.common.errors import InputError
from shards.common.files import file_lock
from shards.storage.cache import BLOCK, CHECKSUM, PARTIAL, BlockCache

MUCH = 1 << 30


def bytes_of(name: str, size: int = 1000) -> bytes:
    return (name.encode() * size)[:size]


def take(cache: BlockCache, name: str, size: int = 1000) -> bool:
    """Get a block and compare its bytes; whether it had to be fetched."""
    fetched = []

    def fetch() -> bytes:
        fetched.append(name)
        return bytes_of(name, size)

    block = cache.get(name, fetch)
    assert block.read(0, size) == bytes_of(name, size)
    block.close()
    return bool(fetched)


def never() -> bytes:
    raise AssertionError("fetched again")


def files(folder: Path) -> set[str]:
    return {path.name.removesuffix(BLOCK) for path in folder.glob(f"*{BLOCK}")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(folder: Path) -> BlockCache:
    return BlockCache(folder, MUCH)


@contextmanager
def process(folder: Path, body: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Python that has a ``cache`` of its own."""
    head = "import os, sys, time; from pathlib import Path; from shards.storage.cache import BlockCache\n"
    head += f"cache = BlockCache(Path({str(folder)!r}), {MUCH})\n"
    words = [sys.executable, "-c", head + body, *arguments]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_a_block_is_fetched_once(cache: BlockCache) -> None:
    assert take(cache, "a")
    assert not take(cache, "a")
    assert take(cache, "b")
    block = cache.get("a", never)
    assert [block.read(*span) for span in ((5, 3), (998, 2), (998, 9), (1000, 1))] == [b"aaa", b"aa", b"aa", b""]
    block.close()


def test_another_cache_in_the_same_folder_shares_the_blocks(folder: Path, cache: BlockCache) -> None:
    take(cache, "a")
    other = BlockCache(folder, MUCH)
    assert other.has("a")
    assert not other.has("b")
    assert not take(other, "a")


def test_a_fetch_that_fails_is_tried_by_the_next(cache: BlockCache) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: bytes([1 // 0]))
    assert take(cache, "a")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", [flip, lambda path: os.truncate(path, 999), lambda path: os.truncate(path, 0), Path.unlink]
)
def test_a_damaged_block_is_fetched_again(folder: Path, cache: BlockCache, damage: Callable[[Path], None]) -> None:
    take(cache, "a")
    damage(folder / f"a{BLOCK}")
    assert take(BlockCache(folder, MUCH), "a")
    assert not take(BlockCache(folder, MUCH), "a")


def test_the_folder_may_vanish(folder: Path, cache: BlockCache) -> None:
    take(cache, "a")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert take(cache, "a")


def test_the_folder_may_vanish_while_a_block_is_fetched(folder: Path, cache: BlockCache) -> None:
    def fetch() -> bytes:
        shutil.rmtree(folder)
        return bytes_of("a")

    assert cache.get("a", fetch).read(0, 3) == bytes_of("a")[:3]
    assert take(cache, "b") and not take(cache, "b")


def test_a_lock_is_writable(folder: Path) -> None:
    """NFS emulates ``flock`` with byte-range locks, which need a file that is open for writing."""
    folder.mkdir(mode=0o700)
    path = folder / "x.lock"
    with file_lock(path):
        modes = [
            int((entry.parent.parent / "fdinfo" / entry.name).read_text().split("flags:")[1].split()[0], 8)
            & os.O_ACCMODE
            for entry in Path("/proc/self/fd").iterdir()
            if os.path.realpath(entry) == str(path)
        ]
    assert modes == [os.O_RDWR]


def test_threads_fetch_a_block_once(cache: BlockCache) -> None:
    fetches = []
    start = threading.Barrier(8)

    def fetch() -> bytes:
        fetches.append(1)
        return b"x"

    def work() -> None:
        start.wait()
        cache.get("a", fetch).close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetches) == 1


def test_processes_fetch_a_block_once(folder: Path) -> None:
    body = """
def fetch(name):
    print(name)
    time.sleep(0.005)
    return name.encode() * 1000
print("ready", flush=True)
sys.stdin.readline()
for name in map(str, range(100, 140)):
    block = cache.get(name, lambda: fetch(name))
    assert block.read(0, 9999) == name.encode() * 1000
    block.close()
"""
    with process(folder, body) as one, process(folder, body) as other:
        for child in (one, other):
            assert line(child) == "ready"
        for child in (one, other):
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        fetched = [one.communicate()[0].split(), other.communicate()[0].split()]
        assert one.returncode == other.returncode == 0
    assert sorted(fetched[0] + fetched[1]) == [*map(str, range(100, 140))]


STUCK = """
def stuck(*_):
    print("stuck", flush=True)
    time.sleep(60)
"""


def test_a_killed_fetcher_gives_way(folder: Path, cache: BlockCache) -> None:
    with process(folder, f"{STUCK}\ncache.get('a', stuck)") as child:
        assert line(child) == "stuck"
        child.send_signal(signal.SIGKILL)
        assert take(cache, "a")


def test_what_a_killed_writer_left_is_swept(folder: Path, cache: BlockCache) -> None:
    with process(folder, f"{STUCK}\nPath.rename = stuck\ncache.get('a', lambda: b'a' * 1000)") as child:
        assert line(child) == "stuck"
        assert take(cache, "b")
        assert len([*folder.glob(f"a.*{PARTIAL}")]) == 1  # it may still be finished
    for partial in folder.glob(f"a.*{PARTIAL}"):
        os.utime(partial, (1000, 1000))
    assert take(BlockCache(folder, MUCH), "c")
    assert not [*folder.glob(f"*{PARTIAL}")]
    assert files(folder) == {"b", "c"}


def age(folder: Path, *names: str) -> None:
    """Let ``names`` have been used long ago, the first of them first."""
    for seconds, name in enumerate(names):
        os.utime(folder / f"{name}{BLOCK}", (1000 + seconds, 1000 + seconds))


def test_what_is_unused_longest_goes(folder: Path) -> None:
    cache = BlockCache(folder, 3 * (1000 + CHECKSUM))
    for name in "abc":
        take(cache, name)
    assert files(folder) == set("abc")
    age(folder, "c", "a", "b")
    take(cache, "d")
    assert files(folder) == set("abd")
    age(folder, "a", "b", "d")
    assert not take(cache, "a")  # used again
    take(cache, "e")
    assert files(folder) == set("ade")


def test_opening_counts_as_use(folder: Path) -> None:
    cache = BlockCache(folder, 2 * (1000 + CHECKSUM))
    take(cache, "a")
    take(cache, "b")
    age(folder, "a", "b")
    cache.get("a", never).close()
    take(cache, "c")
    assert files(folder) == set("ac")


def test_an_evicted_block_stays_readable_while_it_is_open(folder: Path) -> None:
    cache = BlockCache(folder, 10)  # smaller than any block: each drives out the one before, never itself
    block = cache.get("a", lambda: bytes_of("a"))
    assert files(folder) == {"a"}
    take(cache, "b")
    assert files(folder) == {"b"}
    assert block.read(0, 1000) == bytes_of("a")
    block.close()


def test_the_folder_is_looked_at_rarely(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    blocks = BlockCache._blocks
    monkeypatch.setattr(BlockCache, "_blocks", lambda self: looks.append(1) or blocks(self))
    cache = BlockCache(folder, 256 * 10_000)
    for number in range(100):
        take(cache, str(number))
    assert 9 <= len(looks) <= 11


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a file system cannot be mounted here: not root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_smaller_than_the_limit_is_not_filled(small_disk: Path) -> None:
    cache = BlockCache(small_disk, 256 * 50_000)  # checks its size at each of these blocks
    for name in "abcdefghijkl":
        assert take(cache, name, 100_000)
        assert not take(cache, name, 100_000)
    assert 6 <= len(files(small_disk)) <= 9
    assert not [*small_disk.glob(f"*{PARTIAL}")]


def test_a_cache_that_fills_the_disk_makes_room_for_later_blocks(small_disk: Path) -> None:
    cache = BlockCache(small_disk, MUCH)  # does not check its size before the disk is full
    with pytest.warns(UserWarning, match="disk is full") as warned:
        assert all(take(cache, name, 300_000) for name in "abcdefghijkl")
    assert files(small_disk) & set("kl")
    assert len(warned) == 1
    assert len(files(small_disk)) in {2, 3}
    assert not [*small_disk.glob(f"*{PARTIAL}")]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_disk_filled_by_others_leaves_memory(small_disk: Path) -> None:
    cache = BlockCache(small_disk, MUCH)
    take(cache, "a", 100_000)
    fill(small_disk / "other")
    with pytest.warns(UserWarning, match=r"disk is full .*: blocks stay in memory") as warned:
        blocks = [cache.get(name, lambda: bytes_of("x", 900_000)) for name in "bc"]
    for block in blocks:
        assert block.in_memory
        assert block.read(899_999, 9) == b"x"
        block.close()
    assert len(warned) == 1
    assert not [*small_disk.glob(f"*{PARTIAL}")]
    (small_disk / "other").unlink()
    assert take(cache, "d", 900_000)
    assert not take(cache, "d", 900_000)


def test_a_disk_that_fails_is_an_error(cache: BlockCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(InputError, match=r"cannot be written \(Input/output error\)"):
        take(cache, "a")


def test_the_folder_is_closed_to_others(folder: Path, cache: BlockCache) -> None:
    take(cache, "a")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def open_to_all(folder: Path) -> None:
    folder.mkdir(mode=0o755)


def someone_elses(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, 12345, -1)
    except PermissionError:
        pytest.skip("a folder cannot be given to another user here: not root")


def link(folder: Path) -> None:
    (folder.parent / "target").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "target")


@pytest.mark.parametrize("make", [open_to_all, someone_elses, link])
def test_a_folder_of_others_is_refused(folder: Path, make: Callable[[Path], None]) -> None:
    make(folder)
    with pytest.raises(InputError, match=f"{folder} must be your own folder"):
        BlockCache(folder, MUCH)


def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(InputError, match=r"cannot be created \(File exists\)"):
        BlockCache(folder, MUCH)
