"""The commands for existing shards: ``index``, ``verify``, ``info``."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tyro.conf import Positional

from shards.check.index_tars import index_tars
from shards.check.verify import verify
from shards.common.errors import InputError
from shards.common.names import printable
from shards.common.sheet import write_sheet
from shards.common.urls import is_remote, local_path, redact
from shards.format.manifest import describe_manifest
from shards.loading.reader import Reader

SHOWN = 64  # images on a contact sheet


@dataclass(frozen=True)
class Index:
    """Index the tars of other tools (any WebDataset of images) for training, without changing them.

    The tars must be uncompressed and hold one image per key, as .jpg, .jpeg, .png, .webp or .npy; other members are
    counted and left out. An HTTP server must support ranges.

    Example: python -m shards index /data/flowers --out data/flowers-index
    """

    where: Positional[str]
    """Folder of .tar files, one .tar, or a pattern such as "train-{000..099}.tar" or "train-*.tar"; or a URL of these,
    with braces only."""
    out: Path | None = None
    """Folder for manifest.json and index.npy, if not the tars' own; train with this folder then. Credentials in a URL
    are not stored: put them where fsspec finds them (~/.config/fsspec or FSSPEC_... variables)."""
    size: Literal[32, 64, 128, 256] | None = None
    """Read the images as squares of this many pixels. Default: their own size if all have one of these, else 64."""
    channels: Literal[1, 3] | None = None
    """1 reads the images in grey, 3 in colour. Default: grey if all are grey."""

    def run(self) -> None:
        manifest = index_tars(self.where, self.out, self.size, self.channels)
        print(describe_manifest(manifest))
        if manifest.format == "any":
            print(
                f"The images differ in size or encoding: each is resized to {manifest.size}x{manifest.size} every time "
                "it is read, ten times slower. For long runs unpack them and use `python -m shards build folder`.",
                file=sys.stderr,
            )


@dataclass(frozen=True)
class Verify:
    """Read and decode everything, and list all differences from the manifest. The exit code is 2 if there are any.

    Example: python -m shards verify data/celeba64
    """

    where: Positional[str]
    """Folder or URL that holds manifest.json."""

    def run(self) -> None:
        count = 0
        for problem in verify(self.where):
            print(printable(problem), flush=True)
            count += 1
        if count:
            raise InputError(f"{redact(self.where)} has {count:,} problem{'s' * (count > 1)}. Fetch or build it again.")
        print(f"{redact(self.where)} is whole: every file, checksum and image.", file=sys.stderr)


@dataclass(frozen=True)
class Info:
    """Describe a data set, and draw its first images on a contact sheet.

    Example: python -m shards info data/celeba64 --sheet celeba.png
    """

    where: Positional[str]
    """Folder or URL that holds manifest.json."""
    sheet: Path | None = None
    """File for the picture. Default: contact-sheet.png in the folder, or in the current folder for a URL."""

    def run(self) -> None:
        with closing(Reader(self.where, lanes=1)) as reader:  # one lane reads few blocks, which may be remote
            manifest = reader.manifest
            print(describe_manifest(manifest))
            images = np.empty((min(SHOWN, manifest.samples), *manifest.shape), np.uint8)
            bad = reader.read(0, images).bad
        if bad:
            print(f"Warning: {len(bad)} of the images on the sheet are replaced. {bad[0]}.", file=sys.stderr)
        folder = Path() if is_remote(self.where) else local_path(self.where)
        path = self.sheet or folder / "contact-sheet.png"
        try:
            write_sheet(images, path)
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}). Give --sheet FILE.") from error
        print(f"{'sheet':>10}  {path}")
