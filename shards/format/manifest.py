"""``manifest.json`` describes a data set. It is written last and atomically, so a folder that has one is complete."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.urls import redact

MANIFEST = "manifest.json"
INDEX = "index.npy"
DUPLICATES = "duplicates"  # key in ``Manifest.build``: how many near-duplicates a build with ``--dedup`` left out
NOT_IMAGES = "not images"
"""Key in ``Manifest.build``: how many files beside the raw images were passed over, by suffix; only if there were."""
VERSION = 1
FORMATS = ("jpg", "png", "npy", "any")
MAX_SIZE = 1 << 14  # height and width in pixels


@dataclass(frozen=True)
class Shard:
    """One tar."""

    name: str  # of the file, relative to the manifest
    samples: int
    bytes: int
    sha256: str  # of the file; empty if it was indexed from a URL


@dataclass(frozen=True)
class Manifest:
    """A data set: its shards in order, and the format of its images."""

    source: str  # the kind of source, such as ``celeba``; ``tars`` for the tars of other tools
    format: str
    """Encoding of the images: ``jpg``, ``png``, ``npy``, or ``any`` for mixed encodings or sizes, resized when read."""
    size: int  # height and width in pixels
    channels: int
    shards: tuple[Shard, ...]
    index_sha256: str  # of ``index.npy``
    classes: tuple[str, ...] = ()  # names of the labels in ``key.cls``, by number; empty without labels
    build: Mapping[str, Any] = field(default_factory=dict)
    """The build options, without paths, host names or dates: equal inputs give equal manifests."""
    skipped: tuple[str, ...] = ()  # origins of unusable raw images, left out on request
    base: str = ""  # absolute path or URL of the tars, if they are not beside the manifest
    version: int = VERSION

    @cached_property
    def counts(self) -> np.ndarray:
        """Samples per shard, int64."""
        return np.array([shard.samples for shard in self.shards], dtype=np.int64)

    @cached_property
    def samples(self) -> int:
        return int(self.counts.sum())

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        return (self.size, self.size, self.channels)

    @property
    def summary(self) -> str:
        """A short description for messages."""
        shards = f"{len(self.shards)} shard{'s' * (len(self.shards) > 1)}"
        images = f"{self.samples:,} {self.source} images of {self.size}x{self.size}x{self.channels}"
        return f"{images}, {self.format}, in {shards}"

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides which bytes are sample i."""
        # Without the checksums of the tars, which an index from a URL lacks; the index has one of every image.
        shards = [[shard.name, shard.samples, shard.bytes] for shard in self.shards]
        fields = [self.format, self.size, self.channels, self.index_sha256, shards]
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def describe_manifest(manifest: Manifest) -> str:
    """A description in a few lines, for people."""
    total = sum(shard.bytes for shard in manifest.shards)
    fields = {
        "source": manifest.source,
        "images": f"{manifest.samples:,} of {manifest.size}x{manifest.size}x{manifest.channels}, {manifest.format}",
        "shards": f"{len(manifest.shards):,}, together {total / 1e6:,.1f} MB",
        "tars at": redact(manifest.base),
        "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes[:10])}" if manifest.classes else "none",
        "skipped": f"{len(manifest.skipped):,}",
        "duplicates": f"{manifest.build[DUPLICATES]:,} left out" if DUPLICATES in manifest.build else "",
        NOT_IMAGES: ", ".join(f"{count:,} {suffix}" for suffix, count in manifest.build.get(NOT_IMAGES, {}).items()),
        "built with": ", ".join(f"{name} {value}" for name, value in manifest.build.items() if name != NOT_IMAGES),
        "digest": manifest.digest,
    }
    return "\n".join(f"{name:>10}  {value}" for name, value in fields.items() if value)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest`` to ``folder``; the index and the tars must be there already."""
    with atomic_write(folder / MANIFEST) as file:
        file.write((json.dumps({"samples": manifest.samples, **asdict(manifest)}, indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Read ``folder/manifest.json``; raises ``InputError`` if there is none, or this version cannot read it."""
    path = folder / MANIFEST
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        what = f"it holds no {MANIFEST}."
        if not folder.exists():
            what = "there is no such folder."
        elif any(folder.glob("*.tar")) or any(folder.glob(".*.partial")):
            what = f"it holds tars but no {MANIFEST}, so a build was interrupted. Run it again."
        how = f"Build them with: python -m shards build SOURCE_KIND RAW {folder}"
        raise InputError(f"No shards at {folder}: {what} {how}") from None
    except NotADirectoryError:
        what = "`python -m shards index` makes it for tars." if folder.suffix == ".tar" else "Name the folder itself."
        raise InputError(f"{folder} is a file, not a folder that holds {MANIFEST}. {what}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). Build the data set again.") from error


def parse_manifest(data: bytes, path: str) -> Manifest:
    """Parse the JSON in ``data``; raises ``InputError``, which names ``path``, if this version cannot read it."""
    try:
        fields = json.loads(data)
        if fields["version"] != VERSION:
            raise InputError(f"{path} has version {fields['version']}; this shardgan reads version {VERSION}.")
        total = fields.pop("samples")
        shards = tuple(Shard(**shard) for shard in fields.pop("shards"))
        classes, skipped = tuple(fields.pop("classes")), tuple(fields.pop("skipped"))
        manifest = Manifest(shards=shards, classes=classes, skipped=skipped, **fields)
        if problem := next(_find_problems(manifest, total), None):
            raise InputError(f"{path} {problem}. Build the data set again.")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a shardgan manifest ({error!r}). Build the data set again.") from error
    return manifest


def _find_problems(manifest: Manifest, total: int) -> Iterator[str]:
    """Values whose errors would otherwise appear far from here; a manifest may come from anywhere."""
    numbers = [number for shard in manifest.shards for number in (shard.samples, shard.bytes)]
    if not all(type(number) is int and 0 <= number < 2**48 for number in (manifest.size, manifest.channels, *numbers)):
        raise TypeError("a size or a count is not a number")
    texts = [text for shard in manifest.shards for text in (shard.name, shard.sha256)]
    texts += [manifest.source, manifest.index_sha256, manifest.base, *manifest.classes, *manifest.skipped]
    if not all(isinstance(text, str) for text in texts) or not isinstance(manifest.build, dict):
        raise TypeError("a name or a checksum is not a text")
    if manifest.format not in FORMATS:
        yield f"has images in the format {manifest.format!r}; this shardgan reads {', '.join(FORMATS)}"
    if manifest.channels not in (1, 3) or not 0 < manifest.size <= MAX_SIZE:
        yield f"has images of size {manifest.size} with {manifest.channels} channels, which are not possible"
    for shard in manifest.shards:
        path = PurePosixPath(shard.name)
        if not path.parts or path.is_absolute() or ".." in path.parts or b"\0" in os.fsencode(path):
            yield f"lists the shard {shard.name!r}, which lies outside its folder"
    if not manifest.samples or not manifest.counts.all():
        yield "lists a shard without samples, or no shard at all"
    if manifest.samples != total:
        yield f"says {total} samples, its shards sum to {manifest.samples}; it was edited"
