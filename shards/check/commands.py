"""The commands for shards that are there already: ``index``, ``verify``, ``info``."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tyro.conf import Positional

from shards.check.adopt import index_tars
from shards.check.verify import verify
from shards.common.errors import InputError
from shards.common.sheet import write_sheet
from shards.common.urls import is_remote, local_path, redact
from shards.format.manifest import DUPLICATES, Manifest
from shards.loading.reader import Reader

SHOWN = 64
"""Images on a contact sheet."""


@dataclass(frozen=True)
class Index:
    """Index tars that someone else wrote (any WebDataset of images), without changing them, so that they can train.

    One image a key, as .jpg, .jpeg, .png, .webp or .npy, in tars that are not compressed; other members are counted and
    left out. An HTTP server must honour ranges.

    Example: python -m shards index /data/flowers --out data/flowers-index
    """

    where: Positional[str]
    """Folder of .tar files, one .tar, or a pattern such as "train-{000..099}.tar" or "train-*.tar"; or a URL of these,
    with braces only."""
    out: Path | None = None
    """Folder for manifest.json and index.npy, where the tars' own cannot be written. Train with this folder then.
    Credentials in a URL are not kept: put them where fsspec finds them (~/.config/fsspec or FSSPEC_... variables)."""
    size: Literal[32, 64, 128] | None = None
    """Read the images as squares of so many pixels. Their own size if all have one of these; else 64."""
    channels: Literal[1, 3] | None = None
    """1 reads them in grey, 3 in colour. Grey if all are."""

    def run(self) -> None:
        if not self.where:
            raise InputError("The name of the tars is empty: an unset variable?")
        manifest = index_tars(self.where, self.out, self.size, self.channels)
        print(summary(manifest))
        if manifest.format == "any":
            print(
                f"The images differ in size or encoding: each is resized to {manifest.size}x{manifest.size} every time "
                "it is read, ten times slower. For long trainings unpack them and use `python -m shards build folder`.",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class Verify:
    """Read and decode everything, and list what is not as the manifest says. Exit code 2 if anything is.

    Example: python -m shards verify data/celeba64
    """

    where: Positional[str]
    """Folder or URL that holds manifest.json."""

    def run(self) -> None:
        count = 0
        for problem in verify(self.where):
            print(problem, flush=True)
            count += 1
        if count:
            raise InputError(f"{redact(self.where)} has {count:,} problem{'s' * (count > 1)}. Fetch or build it again.")
        print(f"{redact(self.where)} is whole: every file, checksum and image.", file=sys.stderr)


@dataclass(frozen=True)
class Info:
    """Say what a data set holds, and show its first images on a contact sheet.

    Example: python -m shards info data/celeba64 --sheet celeba.png
    """

    where: Positional[str]
    """Folder or URL that holds manifest.json."""
    sheet: Path | None = None
    """The picture; contact-sheet.png in the folder unless given, in this one for a URL."""

    def run(self) -> None:
        with closing(Reader(self.where, lanes=1)) as reader:  # few blocks, which may lie far away
            manifest = reader.manifest
            print(summary(manifest))
            images = np.empty((min(SHOWN, manifest.samples), *manifest.shape), np.uint8)
            reader.read(0, images)
        folder = Path() if is_remote(self.where) else local_path(self.where)
        path = self.sheet or folder / "contact-sheet.png"
        try:
            write_sheet(images, path)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}). Give --sheet FILE.") from error
        print(f"{'sheet':>10}  {path}")


def summary(manifest: Manifest) -> str:
    """A few lines for people."""
    total = sum(shard.bytes for shard in manifest.shards)
    facts = {
        "source": manifest.source,
        "images": f"{manifest.samples:,} of {manifest.size}x{manifest.size}x{manifest.channels}, {manifest.format}",
        "shards": f"{len(manifest.shards):,}, together {total / 1e6:,.1f} MB",
        "tars at": redact(manifest.base),
        "classes": f"{len(manifest.classes)}: {', '.join(manifest.classes[:10])}" if manifest.classes else "none",
        "skipped": f"{len(manifest.skipped):,}",
        "duplicates": f"{manifest.build[DUPLICATES]:,} left out" if DUPLICATES in manifest.build else "",
        "built with": ", ".join(f"{name} {value}" for name, value in manifest.build.items()),
        "digest": manifest.digest,
    }
    return "\n".join(f"{name:>10}  {value}" for name, value in facts.items() if value)
