from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from shards.common.errors import InputError
from shards.format.manifest import INDEX, MANIFEST, read_manifest
from shards.storage.locate import default_cache_folder, fetch_chunks, fetch_index
from shards.storage.tars import list_tars
from tests.support.faulty import FaultyServer
from tests.support.make import make_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "shards"
    make_shards(path)
    return path


def test_a_small_file_survives_faults(folder: Path) -> None:
    with FaultyServer(folder, ["500", "truncated", "reset"]) as server:
        assert b"".join(fetch_chunks(f"{server.url}/{MANIFEST}", 10**6)) == (folder / MANIFEST).read_bytes()
        with pytest.raises(InputError, match=r"127.0.0.1:\d+/no\?token=\*\*\* cannot be read: there is no such file"):
            b"".join(fetch_chunks(f"{server.url}/no?token=s3cret", 10**6))


def test_the_index_is_fetched_once(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    with FaultyServer(folder, ["truncated"] * 3) as server:
        path = fetch_index(server.url, manifest, tmp_path / "cache")
        requests = len(server.requests)
        assert path == fetch_index(server.url, manifest, tmp_path / "cache")
        assert len(server.requests) == requests
        assert path.read_bytes() == (folder / INDEX).read_bytes()
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        leftover = path.with_name(f".{path.name}.1.partial")
        leftover.touch()
        fetch_index(server.url, manifest, tmp_path / "cache")
        assert path.read_bytes() == (folder / INDEX).read_bytes()
        assert not leftover.exists()


@pytest.mark.parametrize("checksum", ["0" * 64, "../x"])
def test_an_index_of_another_data_set(folder: Path, tmp_path: Path, checksum: str) -> None:
    manifest = replace(read_manifest(folder), index_sha256=checksum)
    with FaultyServer(folder) as server, pytest.raises(InputError, match="does not match the manifest"):
        fetch_index(server.url, manifest, tmp_path / "cache")
    assert {*tmp_path.rglob("*.npy")} == {folder / INDEX}


def test_a_list_of_tars_is_read_from_a_server_that_compresses_pages(tmp_path: Path) -> None:
    (tmp_path / "d").write_text('<a href="b.tar">b</a> <a href="a.tar">a</a> <a href="c.txt">c</a>')
    with FaultyServer(tmp_path) as server:
        assert list_tars(f"{server.url}/d/").names == ("a.tar", "b.tar")
        assert {request.headers["Accept-Encoding"] for request in server.requests} == {"identity"}


def test_the_default_cache_belongs_to_this_user() -> None:
    assert default_cache_folder() == Path(tempfile.gettempdir()) / f"shardgan-cache-{os.getuid()}"
    with patch("tempfile.gettempdir", side_effect=FileNotFoundError), patch.dict(os.environ, {"TMPDIR": "/proc/x"}):
        assert default_cache_folder() == Path(f"/proc/x/shardgan-cache-{os.getuid()}")  # local data do not need it
