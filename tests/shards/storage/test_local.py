from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from shards.common.errors import InputError
from shards.format.manifest import Manifest
from shards.storage.local import LocalStorage, open_file_limit
from tests.support.make import make_shards


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return make_shards(tmp_path, samples=9, shard_samples=3)


@pytest.fixture
def local(tmp_path: Path, manifest: Manifest) -> LocalStorage:
    return LocalStorage(tmp_path, manifest)


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def test_any_bytes_of_any_tar(local: LocalStorage, manifest: Manifest, tmp_path: Path) -> None:
    local.check()
    for number, shard in [*enumerate(manifest.shards)] * 2:
        whole = (tmp_path / shard.name).read_bytes()
        for offset, size in ((0, len(whole)), (700, 5), (len(whole) - 1, 1), (3, 0)):
            assert local.read(number, 0, offset, size) == whole[offset : offset + size]
        assert local.name(number) == str(tmp_path / shard.name)


def test_few_tars_are_open_at_once_and_none_after_closing(tmp_path: Path, manifest: Manifest) -> None:
    local = LocalStorage(tmp_path, manifest, max_open=2)
    before = open_descriptors()
    for number in [*range(len(manifest.shards))] * 3:
        local.read(number, 0, 0, 1)
        assert len(open_descriptors() - before) <= 2
    local.close()
    assert open_descriptors() == before
    assert local.read(0, 0, 0, 1)
    local.close()


def test_a_missing_tar_is_named(local: LocalStorage, manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / manifest.shards[1].name
    path.unlink()
    for action in (local.check, lambda: local.read(1, 0, 0, 1)):
        with pytest.raises(InputError, match=rf"{path.name} cannot be read \(No such file"):
            action()


@pytest.mark.parametrize("change", [-1, 512])
def test_a_tar_of_another_size_is_named(local: LocalStorage, manifest: Manifest, tmp_path: Path, change: int) -> None:
    shard = manifest.shards[1]
    os.truncate(tmp_path / shard.name, shard.bytes + change)
    before = open_descriptors()
    for action in (local.check, lambda: local.read(1, 0, 0, 1)):
        with pytest.raises(InputError, match=f"{shard.name} has {shard.bytes + change} bytes.*says {shard.bytes}"):
            action()
    assert open_descriptors() == before


def test_a_tar_cut_while_it_is_open_is_named(local: LocalStorage, manifest: Manifest, tmp_path: Path) -> None:
    shard = manifest.shards[2]
    local.read(2, 0, 0, 1)
    os.truncate(tmp_path / shard.name, 1000)
    with pytest.raises(InputError, match=f"{shard.name} ends before byte 1100"):
        local.read(2, 0, 600, 500)
    local.close()


def test_as_many_files_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert open_file_limit(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 728
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert open_file_limit(300) == 128
    assert open_file_limit(3) == 3
