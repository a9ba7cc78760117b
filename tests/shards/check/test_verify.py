"""A corpus of bad shards: each is reported, and none gives garbage."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from shards.check.verify import verify
from shards.common.errors import InputError
from shards.loading.dataset import ShardDataset
from shards.loading.reader import Reader
from shards.storage.locate import CacheOptions
from tests.support.faulty import FaultyServer
from tests.support.make import key, make_shards, numbers

SAMPLES = 50
BAD = "shard-00001.tar"


def flip_a_bit_of_an_image(folder: Path) -> None:
    path = folder / BAD
    data = bytearray(path.read_bytes())
    data[int(np.load(folder / "index.npy")[27]["offset"]) + 300] ^= 4
    path.write_bytes(data)


def flip_a_bit_of_a_header(folder: Path) -> None:
    path = folder / BAD
    data = bytearray(path.read_bytes())
    data[int(np.load(folder / "index.npy")[27]["offset"]) - 500] ^= 4
    path.write_bytes(data)


def cut_at_a_members_border(folder: Path) -> None:
    os.truncate(folder / BAD, int(np.load(folder / "index.npy")[27]["offset"]) - 512)


def cut_inside_a_member(folder: Path) -> None:
    os.truncate(folder / BAD, int(np.load(folder / "index.npy")[27]["offset"]) + 100)


def empty(folder: Path) -> None:
    (folder / BAD).write_bytes(b"")


def replace_by_another(folder: Path) -> None:
    """Of the same size, whole, and full of fine images."""
    (folder / BAD).write_bytes((folder / "shard-00000.tar").read_bytes())


def remove(folder: Path) -> None:
    (folder / BAD).unlink()


@pytest.mark.parametrize(
    ("damage", "problem", "readable"),
    [
        (flip_a_bit_of_an_image, f"{BAD}, '{key(27)}' at byte", None),
        (flip_a_bit_of_a_header, f"{BAD}, '?' at byte", "images are whole"),
        (cut_at_a_members_border, f"{BAD}: ends before byte", None),
        (cut_inside_a_member, f"{BAD}: ends before byte", None),
        (empty, f"{BAD}: has 0 bytes, the manifest says", None),
        (replace_by_another, f"{BAD}, '{key(0)}' at byte", None),
        (remove, f"{BAD}: cannot be read (No such file", None),
    ],
)
def test_every_damage_is_found_and_none_is_read(
    tmp_path: Path, damage: Callable[[Path], None], problem: str, readable: str | None
) -> None:
    make_shards(tmp_path, samples=SAMPLES)
    assert not list(verify(tmp_path))
    damage(tmp_path)
    problems = list(verify(tmp_path))
    assert any(line.startswith(problem) for line in problems), problems
    assert len(problems) <= 3 or damage is replace_by_another, problems
    assert all(line.startswith(BAD) for line in problems)
    if readable:
        assert sorted(numbers(ShardDataset(tmp_path).__getitems__(range(SAMPLES)).images)) == list(range(SAMPLES))
    else:
        with pytest.raises(InputError, match=BAD):
            ShardDataset(tmp_path).__getitems__(range(SAMPLES))


def test_an_index_of_something_else_is_a_problem(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=SAMPLES)
    rows = np.load(tmp_path / "index.npy")
    np.save(tmp_path / "index.npy", rows[::-1])
    assert any("does not belong to this manifest" in line for line in verify(tmp_path))


def test_wrong_counts_are_an_error(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=SAMPLES)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"samples": 20', '"samples": 19', 1))
    with pytest.raises(InputError, match="says 50 samples, its shards sum to 49"):
        list(verify(tmp_path))


def test_a_url_is_verified_past_the_cache_and_an_outage_is_no_damage(tmp_path: Path) -> None:
    make_shards(tmp_path / "data", samples=SAMPLES)
    with FaultyServer(tmp_path / "data") as server:
        with closing(Reader(server.url, lanes=1, cache=CacheOptions(tmp_path / "cache"))) as reader:
            reader.read(0, np.empty((SAMPLES, *reader.manifest.shape), np.uint8))
        assert not list(verify(server.url))
        flip_a_bit_of_an_image(tmp_path / "data")
        problems = list(verify(server.url))
        assert [line.split(",")[0].split(":")[0] for line in problems] == [BAD] * len(problems)
        assert any("is not what was indexed" in line for line in problems) and len(problems) == 2
        (tmp_path / "data" / BAD).rename(tmp_path / "away")
        assert ["cannot be read" in line for line in verify(server.url)] == [True]
