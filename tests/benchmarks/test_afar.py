"""From outside: training on shards behind a URL, through everything that a network does, is training on local ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty import FAULTS, FaultyServer
from tests.support.launching import SMALL, rows, run, status
from tests.support.make import make_shards
from tests.support.ranks import on_ranks, train_here


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen blocks, one a shard."""
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, samples=600, size=64, channels=3, shard_samples=40)
    return folder


@pytest.fixture(scope="module")
def local(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "run"
    done = run(*flags(str(shards), out))
    assert done.returncode == 0, done.stderr
    return out


def flags(where: str, out: Path, *more: str) -> list[str]:
    return ["--data.shards", where, "--out", str(out), *SMALL, "--epochs", "1", "--batch-size", "20",
            "--data.audit", str(out / "audit"), *more]  # fmt: skip


def weights(out: Path) -> dict[str, bytes]:
    newest = sorted((out / "checkpoints").iterdir())[-1]
    return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}


def texts(out: Path) -> Iterator[bytes]:
    return (path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_faults_change_nothing_and_credentials_stay_secret(shards: Path, local: Path, tmp_path: Path) -> None:
    schedule = [None, None, None, *FAULTS, None, *FAULTS[:-1]]
    with FaultyServer(shards, schedule, login="user:hunter2") as server:
        url = server.url.replace("://", "://user:hunter2@")
        out = tmp_path / "run"
        more = ("--data.cache", str(tmp_path / "cache"), "--data.workers", "2", "--tracking.mode", "offline")
        done = run(*flags(url, out, *more))
        assert done.returncode == 0, done.stderr
        assert {request.fault for request in server.requests} == {None, *FAULTS}
    assert weights(out) == weights(local)
    assert rows(out / "audit" / "rank-0.jsonl") == rows(local / "audit" / "rank-0.jsonl")
    assert "hunter2" not in done.stdout + done.stderr
    assert f"***@127.0.0.1:{server.port}" in done.stderr
    assert len(list((out / "wandb").rglob("*"))) > 2
    assert not any(b"hunter2" in text for text in texts(out))


def test_two_ranks_fetch_every_block_once(shards: Path, tmp_path: Path) -> None:
    with FaultyServer(shards) as server:
        out = tmp_path / "run"
        results = on_ranks(2, train_here, flags(server.url, out, "--data.cache", str(tmp_path / "cache")))
        assert [code for code, _ in results] == [0, 0], results
        blocks = {span: count for span, count in server.per_range().items() if span[0].endswith(".tar")}
        assert len(blocks) == 15 and set(blocks.values()) == {1}
        assert status(out)["position"] == 600


def test_a_server_without_the_data_is_one_error(tmp_path: Path) -> None:
    with FaultyServer(tmp_path) as server:
        done = run(*flags(server.url.replace("://", "://me:secret@"), tmp_path / "run"))
    assert done.returncode == 2 and done.stderr.count("error: ") == 1
    assert "there is no such file" in done.stderr and "secret" not in done.stderr
    assert not (tmp_path / "run").exists()
