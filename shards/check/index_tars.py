"""Indexes the tars of other tools, without changing them, and finds out which images they contain."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from shards.common.errors import InputError
from shards.common.files import compute_sha256
from shards.common.progress import Progress
from shards.common.urls import bare, is_remote, redact
from shards.format.index import ENTRY, Member, walk_tar, write_index
from shards.format.manifest import MANIFEST, Manifest, Shard, read_manifest, write_manifest
from shards.storage.client import StorageClient
from shards.storage.tars import TarList, list_tars

SOURCE = "tars"
PATIENCE = 15.0
"""Seconds of retries with a server before the first tar is read."""
SIZES: tuple[Literal[32, 64, 128], ...] = (32, 64, 128)


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image says."""

    format: str
    width: int
    height: int
    grey: bool


Headers = Counter[ImageHeader | None]
"""Images by their header; None for those whose header is broken."""


def index_tars(where: str, out: Path | None = None, size: int | None = None, channels: int | None = None) -> Manifest:
    """Index the tars at ``where``: a folder, one tar, or a pattern such as ``train-{000..099}.tar``; or a URL of these.

    Args:
        where: the tars; they are read once, from end to end, and not changed.
        out: folder for the manifest and the index; None for the tars' own, which must be local then.
        size: images are read as squares of this many pixels; None for their own size if it is 32, 64 or 128, else 64.
        channels: 1 or 3; None for 1 if all are grey.

    Raises:
        InputError: there are no tars, one is broken, ``out`` holds the index of other tars, or the server ignores
            ranges.
    """
    tars = list_tars(where)
    if out is None and is_remote(where):
        raise InputError("Give --out FOLDER for the index of tars behind a URL.")
    target = out or Path(tars.base)
    _check_target(target, tars)
    _check_access(target, tars)
    shards, entries, headers, others = _read_tars(tars)
    if not shards:
        names = ", ".join(f"KEY.{extension}" for extension, _ in others.most_common(5)) or "nothing"
        raise InputError(
            f"{redact(where)} holds no images (members named KEY.jpg, .jpeg, .png, .webp or .npy), but {names}."
        )
    size = size or _common_size(headers)
    counts = {
        "formats": _count_formats(headers),
        "broken": headers[None],
        "other members": dict(others.most_common(10)),
    }
    try:
        manifest = Manifest(
            source=SOURCE,
            format=_common_format(headers, size),
            size=size,
            channels=channels or (1 if all(header is None or header.grey for header in headers) else 3),
            shards=tuple(shards),
            index_sha256=write_index(entries, target),
            build=counts,
            base="" if out is None else (bare(tars.base) if is_remote(where) else str(Path(tars.base).resolve())),
        )
        write_manifest(manifest, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    return manifest


def read_image_header(member: Member) -> ImageHeader | None:
    """The header of an image, read in about 20 us without decoding it; None if it is broken."""
    format = "jpg" if member.extension == "jpeg" else member.extension
    try:
        if format == "jpg":
            height, width, colours, _ = simplejpeg.decode_jpeg_header(member.data)
            return ImageHeader(format, width, height, colours.lower() == "gray")
        if format == "npy":
            height, width, *rest = np.load(io.BytesIO(member.data), allow_pickle=False).shape
            return ImageHeader(format, width, height, rest in ([], [1]))
        with Image.open(io.BytesIO(member.data)) as image:
            return ImageHeader(format, *image.size, image.mode in ("1", "L", "I;16"))
    except (ValueError, OSError, SyntaxError, EOFError):
        return None


def _check_target(target: Path, tars: TarList) -> None:
    """Refuse to replace the index of a built data set, or one of more tars."""
    if not (target / MANIFEST).exists():
        return
    old = read_manifest(target)
    if old.source != SOURCE:
        raise InputError(
            f"{target} was built by `python -m shards build {old.source}` and has its index; nothing to do."
        )
    if lost := {shard.name for shard in old.shards} - {*tars.names}:
        raise InputError(
            f"{target} holds the index of {len(lost)} tars that are not at {redact(tars.base)} now, such as "
            f"{min(lost)}. Give another --out, or remove {target / MANIFEST}."
        )


def _check_access(target: Path, tars: TarList) -> None:
    """Check, before hours of reading, that the index can be written and that the server can send parts of a tar."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise _unwritable(target, error) from error
    if is_remote(tars.base):
        first = tars.path(tars.names[0])
        with closing(StorageClient(first, PATIENCE)) as client:
            client.size(first)


def _unwritable(target: Path, error: OSError) -> InputError:
    what = "is a file" if target.is_file() else f"cannot be written ({error.strerror})"
    return InputError(f"{target} {what}. Give --out FOLDER for the index.")


def _read_tars(tars: TarList) -> tuple[list[Shard], list[np.ndarray], Headers, Counter[str]]:
    """The tars that contain images, their ``ENTRY`` arrays, all headers, and the extensions of other members."""
    shards, entries, headers, others = [], [], Headers(), Counter[str]()
    with Progress(len(tars.names), 0, unit="shards") as progress:
        for name in tars.names:
            with tars.open(name) as file:
                rows = []
                for member in walk_tar(file, redact(tars.path(name)), others):
                    rows.append(member.entry)
                    headers[read_image_header(member)] += 1
                if rows:
                    checksum = "" if is_remote(tars.base) else compute_sha256(file)  # a second fetch of a remote tar
                    shards.append(Shard(name, len(rows), file.seek(0, io.SEEK_END), checksum))
                    entries.append(np.array(rows, ENTRY))
            progress.add(1)
    return shards, entries, headers, others


def _count_formats(headers: Headers) -> dict[str, int]:
    formats = Counter[str]()
    for header, count in headers.items():
        if header:
            formats[header.format] += count
    return dict(sorted(formats.items()))


def _common_size(headers: Headers) -> int:
    shapes = {(header.width, header.height) for header in headers if header}
    return next((size for size in SIZES if shapes == {(size, size)}), 64)


def _common_format(headers: Headers, size: int) -> str:
    """The encoding that all images share, if they have the right size; else "any", which resizes as it reads."""
    formats = {(header.format, header.width, header.height) for header in headers if header}
    return next((name for name in ("jpg", "png") if formats == {(name, size, size)}), "any")
