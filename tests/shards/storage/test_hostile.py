"""Manifests and servers that somebody else controls: no byte, host or credential beyond what was asked for."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from shards.check.index_tars import index_tars
from shards.check.verify import verify
from shards.common.errors import InputError
from shards.format.manifest import MANIFEST, read_manifest, write_manifest
from shards.loading.reader import Reader
from shards.storage.client import StorageClient
from shards.storage.locate import CacheOptions, fetch_chunks, locate
from shards.storage.tars import list_tars
from tests.support.faulty import FaultyServer, bomb
from tests.support.make import make_shards

SECRETS = {"Authorization": "Bearer s3cret", "X-Token": "s3cret", "Cookie": "login=s3cret"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "data set"
    make_shards(path)
    return path


@pytest.fixture
def fetched(tmp_path: Path) -> Iterator[tuple[FaultyServer, str, CacheOptions]]:
    """A server of ``folder``'s parent's parent, the URL of the data set, and an empty cache."""
    with FaultyServer(tmp_path) as server:
        yield server, f"http://user:pass@127.0.0.1:{server.port}/a/data%20set?sig=x", CacheOptions(tmp_path / "cache")


def rebase(folder: Path, base: str) -> None:
    write_manifest(replace(read_manifest(folder), base=base), folder)


@pytest.mark.parametrize(
    "base",
    ["/etc", "../tars", "file:///etc", "http://169.254.169.254/latest", "http://localhost:{port}/a/data%20set",
     "http://127.0.0.1:{port}/a", "http://127.0.0.1:{port}/a/data%20set/%2e%2e", "s3://127.0.0.1:{port}/a/data%20set",
     "http://evil:pass@127.0.0.1:{port}/a/data%20set"],
)  # fmt: skip
def test_a_fetched_manifest_points_below_its_own_address(
    folder: Path, fetched: tuple[FaultyServer, str, CacheOptions], base: str
) -> None:
    server, url, cache = fetched
    rebase(folder, base.format(port=server.port))
    with pytest.raises(InputError, match="not below its own address") as refused:
        locate(url, cache)
    assert "\n" not in str(refused.value) and "pass@" not in str(refused.value)
    assert set(server.per_path()) == {"a/data set/manifest.json"}


@pytest.mark.parametrize("below", ["", "/", "/tars", "/tars%20x/y/"])
def test_tars_below_it_are_read_with_the_addresss_credentials(
    folder: Path, fetched: tuple[FaultyServer, str, CacheOptions], below: str
) -> None:
    server, url, cache = fetched
    rebase(folder, f"http://127.0.0.1:{server.port}/a/data%20set{below}")
    path = below.rstrip("/")
    assert locate(url, cache).tars == f"http://user:pass@127.0.0.1:{server.port}/a/data%20set{path}?sig=x"


def test_a_manifest_of_ones_own_points_anywhere_and_a_fetched_one_where_it_is_trusted(
    folder: Path, fetched: tuple[FaultyServer, str, CacheOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even then, other servers see no credentials."""
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"X-Token": "s3cret"}})
    server, url, cache = fetched
    with FaultyServer(folder) as tars:
        index_tars(f"{tars.url}/shard-{{00000..00002}}.tar", tmp_path / "own")
        assert locate(tmp_path / "own").tars == tars.url
        rebase(folder, tars.url)
        location = locate(url, replace(cache, trust_base=True))
        assert location.tars == tars.url
        assert secrets(server) == {"Basic dXNlcjpwYXNz", "s3cret"}
        del tars.requests[:]
        with location.tar_list().open("shard-00000.tar") as file:
            assert file.read() == (folder / "shard-00000.tar").read_bytes()
        with closing(Reader(url, cache=replace(cache, trust_base=True))) as reader:
            reader.read(0, np.empty((50, *reader.manifest.shape), np.uint8))
        assert len(tars.requests) > 2 and secrets(tars) == set()


def secrets(server: FaultyServer) -> set[str]:
    """What the server was told in headers that name a user."""
    sent = [{name.lower(): value for name, value in request.headers.items()} for request in server.requests]
    return {headers[name.lower()] for headers in sent for name in SECRETS if name.lower() in headers}


def test_no_redirect_carries_credentials_to_another_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By any of fsspec's ways to give them, for blocks, whole files, tars and lists."""
    with FaultyServer(folder) as other, FaultyServer(folder, redirect=other.url) as server:
        url = f"http://user:s3cret@127.0.0.1:{server.port}"
        for options in (
            {},
            {"headers": SECRETS},
            {"client_kwargs": {"headers": SECRETS, "cookies": {"login": "s3cret"}}},
            {"cookies": {"login": "s3cret"}},
        ):
            monkeypatch.setitem(fsspec.config.conf, "http", options)
            start = url if not options else server.url
            assert json.loads(b"".join(fetch_chunks(f"{start}/{MANIFEST}", 10**6)))["samples"] == 50
            assert list(verify(start)) == []
            with pytest.raises(InputError, match="Name its tars"):
                list_tars(f"{start}/{MANIFEST}")
            assert secrets(server), options
            assert other.requests and secrets(other) == set(), options
            assert all("s3cret" not in str(request) for request in other.requests)


@pytest.mark.parametrize("fault", ["endless", "surplus", "gzip"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_read_stops_at_the_size_asked_for(folder: Path, fault: str, ranges: bool) -> None:
    bomb()
    tracemalloc.start()
    try:
        with (
            FaultyServer(folder, [fault] * 9, ranges=ranges) as server,
            closing(StorageClient(server.url)) as client,
            pytest.raises(InputError) as refused,
        ):
            client.read(f"{server.url}/{MANIFEST}", 0, 100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "Content-Encoding" in str(refused.value) if ranges and fault == "gzip" else "range" in str(refused.value)
    assert len(server.requests) == 1
    assert peak < 1 << 26  # the server itself holds half of it


def test_a_file_of_a_terabyte_is_not_fetched(folder: Path, tmp_path: Path) -> None:
    with FaultyServer(folder, ["huge"] * 9) as server, pytest.raises(InputError, match=r"1,000,000,000,000 bytes"):
        locate(server.url, CacheOptions(tmp_path / "cache"))
    assert server.served == 1
    with FaultyServer(folder, [None, None, "huge"]) as server, pytest.raises(InputError, match=r"index.npy has 1,000,"):
        locate(server.url, CacheOptions(tmp_path / "cache"))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1:1/x", "sftp://h/x", "nosuch://u:s3cret@h/x", "zip://x", "github://x"])
def test_other_protocols_are_refused_at_once(url: str, tmp_path: Path) -> None:
    for read in (
        lambda: locate(url, CacheOptions(tmp_path)),
        lambda: list_tars(url),
        lambda: index_tars(url, tmp_path),
    ):
        with pytest.raises(InputError, match=r"is not supported. Give an https://, s3://") as refused:
            read()
        assert "s3cret" not in str(refused.value)
