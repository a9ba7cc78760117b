from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from shards.common.errors import InputError
from shards.format.codec import DECODERS
from shards.format.manifest import FORMATS, MANIFEST, Manifest, Shard, parse_manifest, read_manifest, write_manifest

WHOLE = Manifest(
    source="folder",
    format="png",
    size=32,
    channels=3,
    shards=(Shard("shard-000000.tar", 3, 100, "ab"), Shard("shard-000001.tar", 2, 90, "cd")),
    index_sha256="ef",
    classes=("rose", "tulip"),
    build={"seed": 5, "limit": None},
    skipped=("rose/1.png",),
)


def edit(folder: Path, **fields: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_it_comes_back(tmp_path: Path) -> None:
    write_manifest(WHOLE, tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest == WHOLE
    assert (manifest.digest, manifest.samples, manifest.shape) == (WHOLE.digest, 5, (32, 32, 3))
    assert manifest.counts.tolist() == [3, 2]
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


@pytest.mark.parametrize(
    "change",
    [{"format": "jpg"}, {"size": 64}, {"channels": 1}, {"index_sha256": ""}, {"shards": WHOLE.shards[::-1]}],
)
def test_the_digest_sees_what_decides_a_sample(change: dict[str, object]) -> None:
    assert dataclasses.replace(WHOLE, **change).digest != WHOLE.digest


@pytest.mark.parametrize("change", [{"skipped": ()}, {"build": {}}, {"source": "mnist"}])
def test_the_digest_overlooks_the_rest(change: dict[str, object]) -> None:
    assert dataclasses.replace(WHOLE, **change).digest == WHOLE.digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "has version 2"),
        ({"samples": 6}, "says 6 samples, its shards sum to 5"),
        ({"shards": [{"name": "x"}]}, "is not a shardgan manifest"),
        ({"surprise": 1}, "is not a shardgan manifest"),
    ],
)
def test_a_manifest_that_was_edited(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    write_manifest(WHOLE, tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_file_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_no_manifest_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no manifest\.json\. Build them with"):
        read_manifest(tmp_path)
    (tmp_path / "shard-000000.tar").write_bytes(b"")
    with pytest.raises(InputError, match="a build was interrupted"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": "x"}, "not a shardgan manifest"),
        ({"channels": 2}, "with 2 channels, which are not possible"),
        ({"size": 0}, "size 0"),
        ({"shards": [{"name": "../a.tar", "samples": 5, "bytes": 1, "sha256": ""}]}, "lies outside its folder"),
        ({"shards": [{"name": "/a.tar", "samples": 5, "bytes": 1, "sha256": ""}]}, "lies outside its folder"),
        ({"shards": [{"name": "//a.tar", "samples": 5, "bytes": 1, "sha256": ""}]}, "lies outside its folder"),
        ({"shards": [{"name": "a\0.tar", "samples": 5, "bytes": 1, "sha256": ""}]}, "lies outside its folder"),
        ({"shards": [{"name": "\ud800", "samples": 5, "bytes": 1, "sha256": ""}]}, "not a shardgan manifest"),
        ({"shards": [{"name": "a.tar", "samples": "5", "bytes": 1, "sha256": ""}]}, "not a shardgan manifest"),
        ({"shards": [{"name": "a.tar", "samples": True, "bytes": 1, "sha256": ""}]}, "not a shardgan manifest"),
        ({"shards": [{"name": "a.tar", "samples": 10**30, "bytes": 1, "sha256": ""}]}, "not a shardgan manifest"),
        ({"shards": [{"name": "a.tar", "samples": 5, "bytes": 1, "sha256": None}]}, "not a shardgan manifest"),
        ({"base": ["x"]}, "not a shardgan manifest"),
        ({"build": None}, "not a shardgan manifest"),
        ({"classes": [5]}, "not a shardgan manifest"),
        ({"format": "tiff"}, "format 'tiff'; this shardgan reads jpg, png, npy, any"),
        ({"size": 10**9}, "size 1000000000"),
    ],
)
def test_fields_that_cannot_be_are_refused_here(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    write_manifest(WHOLE, tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_brackets_without_end_are_no_manifest() -> None:
    with pytest.raises(InputError, match="not a shardgan manifest"):
        parse_manifest(b"[" * 10**6, "x")


def test_every_format_has_a_decoder() -> None:
    assert set(FORMATS) == DECODERS.keys()


def test_the_digest_is_that_of_the_images_wherever_they_lie() -> None:
    afar = dataclasses.replace(WHOLE, shards=tuple(dataclasses.replace(s, sha256="") for s in WHOLE.shards), base="x")
    assert afar.digest == WHOLE.digest


@pytest.mark.parametrize(("name", "advice"), [("x.tar", "shards index"), ("manifest.json", "Name the folder itself")])
def test_a_file_is_no_data_set(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=f"{name} is a file, not a folder that holds manifest.json.*{advice}"):
        read_manifest(tmp_path / name)
