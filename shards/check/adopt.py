"""Tars that someone else wrote: index them, and learn what is in them, without writing a byte to them."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import simplejpeg
from PIL import Image

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.progress import Progress
from shards.common.urls import bare, is_remote, redact
from shards.format.index import ENTRY, Member, walk_tar
from shards.format.manifest import INDEX, MANIFEST, Manifest, Shard, read_manifest, write_manifest
from shards.storage.client import StorageClient
from shards.storage.tars import TarList, list_tars

SOURCE = "tars"
PROBING = 15.0
"""Seconds of patience with a server before the first tar is read."""
SIZES: tuple[Literal[32, 64, 128], ...] = (32, 64, 128)
FORMATS = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "npy": "npy", "webp": "webp"}


@dataclass(frozen=True)
class Look:
    """What an image's header says."""

    format: str
    width: int
    height: int
    grey: bool


def index_tars(where: str, out: Path | None = None, size: int | None = None, channels: int | None = None) -> Manifest:
    """Index the tars at ``where``: a folder, one tar, or a pattern such as ``train-{000..099}.tar``; or a URL of these.

    Args:
        where: the tars; they are read once, whole, and not changed.
        out: where the manifest and the index go; None for beside the tars, which must be local then.
        size: images are read as squares of so many pixels; None for their own size if it is 32, 64 or 128, else 64.
        channels: 1 or 3; None for 1 if all are grey.

    Raises:
        InputError: nothing there, a tar that is broken, a folder that holds the index of other tars, or a server that
            ignores ranges.
    """
    found = list_tars(where)
    if out is None and is_remote(where):
        raise InputError("Give --out FOLDER for the index of tars that lie behind a URL.")
    target = out or Path(found.base)
    _refuse_others(target, found)
    _probe(target, found)
    shards, rows, looks, others = [], [], Counter[Look | None](), Counter[str]()
    with Progress(len(found.names), 0, unit="shards") as progress:
        for name in found.names:
            shard, entries = _index_one(found, name, looks, others)
            progress.add(1)
            if len(entries):
                shards.append(shard)
                rows.append(entries)
    if not shards:
        names = ", ".join(f"KEY.{extension}" for extension, _ in others.most_common(5)) or "nothing"
        raise InputError(
            f"{redact(where)} holds no images (members named KEY.jpg, .jpeg, .png, .webp or .npy), but {names}."
        )
    size = size or _own_size(looks)
    channels = channels or (1 if all(look is None or look.grey for look in looks) else 3)
    index = io.BytesIO()
    np.lib.format.write_array(index, np.concatenate(rows), allow_pickle=False)
    manifest = Manifest(
        source=SOURCE,
        format=_format(looks, size),
        size=size,
        channels=channels,
        shards=tuple(shards),
        index_sha256=hashlib.sha256(index.getbuffer()).hexdigest(),
        build={
            "formats": dict(sorted(_tally(looks, lambda look: look.format).items())),
            "broken": looks[None],
            "other members": dict(others.most_common(10)),
        },
        base="" if out is None else (bare(found.base) if is_remote(where) else str(Path(found.base).resolve())),
    )
    try:
        with atomic_write(target / INDEX) as file:
            file.write(index.getbuffer())
        write_manifest(manifest, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    return manifest


def _probe(target: Path, found: TarList) -> None:
    """Before hours of reading: can the index be written, and can the tars be read in parts?"""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target):
            pass
    except OSError as error:
        raise _unwritable(target, error) from error
    if is_remote(found.base):
        first = found.path(found.names[0])
        with StorageClient(first, PROBING) as client:
            client.size(first)


def _unwritable(target: Path, error: OSError) -> InputError:
    what = "is a file" if target.is_file() else f"cannot be written ({error.strerror})"
    return InputError(f"{target} {what}. Give --out FOLDER for the index.")


def _index_one(
    found: TarList, name: str, looks: Counter[Look | None], others: Counter[str]
) -> tuple[Shard, np.ndarray]:
    with found.open(name) as file:
        entries = []
        for member in walk_tar(file, redact(found.path(name)), others):
            entries.append(member.entry)
            looks[look_at(member)] += 1
        digest = "" if is_remote(found.base) else _checksum(file)  # else all would be fetched twice
        size = file.seek(0, io.SEEK_END)
    return Shard(name, len(entries), size, digest), np.array(entries, ENTRY)


def _checksum(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it reads into


def look_at(member: Member) -> Look | None:
    """What the header of an image says, without decoding it: about 20 us; None where it says nothing."""
    format = FORMATS[member.extension]
    try:
        if format == "jpg":
            height, width, colours, _ = simplejpeg.decode_jpeg_header(member.data)
            return Look(format, width, height, colours.lower() == "gray")
        if format == "npy":
            height, width, *rest = np.load(io.BytesIO(member.data), allow_pickle=False).shape
            return Look(format, width, height, rest in ([], [1]))
        with Image.open(io.BytesIO(member.data)) as image:
            return Look(format, *image.size, image.mode in ("1", "L", "I;16"))
    except (ValueError, OSError, SyntaxError, EOFError):
        return None


def _refuse_others(target: Path, found: TarList) -> None:
    if not (target / MANIFEST).exists():
        return
    old = read_manifest(target)
    if old.source != SOURCE:
        raise InputError(
            f"{target} was built by `python -m shards build {old.source}` and has its index; nothing to do."
        )
    if lost := {shard.name for shard in old.shards} - {*found.names}:
        raise InputError(
            f"{target} holds the index of {len(lost)} tars that {redact(found.base)} does not name now, such as "
            f"{min(lost)}. Give another --out, or remove {target / MANIFEST}."
        )


def _tally(looks: Counter[Look | None], of: Callable[[Look], object]) -> Counter[object]:
    counts = Counter[object]()
    for look, count in looks.items():
        if look is not None:
            counts[of(look)] += count
    return counts


def _own_size(looks: Counter[Look | None]) -> int:
    shapes = _tally(looks, lambda look: (look.width, look.height))
    return next((size for size in SIZES if set(shapes) == {(size, size)}), 64)


def _format(looks: Counter[Look | None], size: int) -> str:
    """One encoding where every image has it and the size; else each image is looked at, and resized, as it is read."""
    formats = _tally(looks, lambda look: (look.format, look.width, look.height))
    return next((name for name in ("jpg", "png") if set(formats) == {(name, size, size)}), "any")
