"""Real little data sets whose images say which sample they are."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
import webdataset

from shards.format.codec import encode
from shards.format.index import ENTRY, walk_tar
from shards.format.manifest import INDEX, Manifest, Shard, write_manifest

MARK = 255
"""Fills the leftmost column; a mirrored image has it on the right."""


def make_shards(
    folder: Path,
    *,
    samples: int = 50,
    size: int = 32,
    channels: int = 1,
    shard_samples: int = 20,
    format: str = "npy",
) -> Manifest:
    """Write a data set of ``samples`` distinct images with keys ``key(0)``, ``key(1)``, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, rows = [], []
    for first in range(0, samples, shard_samples):
        path = folder / f"shard-{len(shards):05d}.tar"
        with webdataset.TarWriter(str(path), encoder=False, mtime=0) as tar:
            for number in range(first, min(samples, first + shard_samples)):
                image = encode(picture(number, size, channels), format)
                tar.write({"__key__": key(number), format: image, "cls": str(number % 10).encode()})
        rows.append(index_tar(path))
        data = path.read_bytes()
        shards.append(Shard(path.name, len(rows[-1]), len(data), hashlib.sha256(data).hexdigest()))
    np.save(folder / INDEX, np.concatenate(rows))
    digest = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    manifest = Manifest("folder", format, size, channels, tuple(shards), digest)
    write_manifest(manifest, folder)
    return manifest


def index_tar(path: Path) -> np.ndarray:
    """The ``ENTRY`` array of one tar."""
    with path.open("rb") as file:
        return np.array([member.entry for member in walk_tar(file, str(path))], ENTRY)


def reindex(folder: Path, manifest: Manifest) -> None:
    """Take the tars' present bytes for the right ones."""
    np.save(folder / INDEX, np.concatenate([index_tar(folder / shard.name) for shard in manifest.shards]))
    tars = [(shard, (folder / shard.name).read_bytes()) for shard in manifest.shards]
    shards = tuple(
        dataclasses.replace(shard, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for shard, data in tars
    )
    digest = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    write_manifest(dataclasses.replace(manifest, shards=shards, index_sha256=digest), folder)


def key(number: int) -> str:
    """The key of sample ``number``."""
    return f"{number:09d}"


def picture(number: int, size: int = 32, channels: int = 1) -> np.ndarray:
    """The image of sample ``number``: the mark, four columns with the number's bytes, and texture of its own."""
    image = np.random.default_rng(number).integers(0, MARK, (size, size, channels), dtype=np.uint8)
    image[:, 0] = MARK
    image[:, 1:5] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)[None, :, None]
    return image


def numbers(images: torch.Tensor) -> list[int]:
    """Which samples ``images`` (n, height, width, channels) are, mirrored or not; every pixel is compared."""
    found = []
    for image in images.numpy():
        upright = image[:, ::-1] if mirrored(image) else image
        found.append(int.from_bytes(upright[0, 1:5, 0].tobytes(), "little"))
        assert np.array_equal(upright, picture(found[-1], *image.shape[1:]))
    return found


def flags(images: torch.Tensor) -> list[bool]:
    """Which of ``images`` are mirrored."""
    return [mirrored(image) for image in images.numpy()]


def mirrored(image: np.ndarray) -> bool:
    """Whether the mark is on the right."""
    left, right = (bool((image[:, side] == MARK).all()) for side in (0, -1))
    assert left != right
    return right


def make_one_broken(folder: Path, samples: int, broken: int, *, shard_samples: int = 20) -> Path:
    """Write a data set in which sample ``broken`` does not decode, and did not when it was indexed."""
    manifest = make_shards(folder, samples=samples, channels=3, shard_samples=shard_samples)
    offset = int(np.load(folder / INDEX)[broken]["offset"])
    with (folder / manifest.shards[broken // shard_samples].name).open("rb+") as file:
        file.seek(offset)
        file.write(bytes(64))
    reindex(folder, manifest)
    return folder
