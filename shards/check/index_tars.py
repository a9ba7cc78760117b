"""Indexes the tars of other tools, without changing them, and finds out which images they contain."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from shards.common.errors import InputError
from shards.common.files import compute_sha256
from shards.common.progress import progress_bar
from shards.common.urls import bare, is_remote, redact
from shards.format.index import ENTRY, Member, walk_tar, write_index
from shards.format.manifest import MANIFEST, Manifest, Shard, read_manifest, write_manifest
from shards.storage.client import StorageClient
from shards.storage.locate import FIRST_PATIENCE, TarList, list_tars

SOURCE = "tars"


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image says."""

    format: str
    width: int
    height: int
    grey: bool


Headers = Counter[ImageHeader | None]  # None counts the images whose header is broken


def index_tars(where: str, out: Path | None = None, size: int | None = None, channels: int | None = None) -> Manifest:
    """Index the tars at ``where``, which are read once, from end to end, and not changed.

    See :class:`shards.check.commands.Index` for the arguments.

    Raises:
        InputError: there are no tars, one is broken, ``out`` holds another index, or the server ignores ranges.
    """
    tars = list_tars(where)
    if out is None and is_remote(where):
        raise InputError("Give --out FOLDER for the index of tars behind a URL.")
    target = out or Path(tars.base)
    with _write_access(target):
        _check_target(target, tars)
    shards, entries, headers, others = _read_tars(tars)
    valid = [header for header in headers if header]
    shapes = {(header.width, header.height) for header in valid}
    size = size or next((size for size in (32, 64, 128) if shapes == {(size, size)}), 64)
    formats = Counter(header.format for header in headers.elements() if header)
    same_format = next((name for name in ("jpg", "png") if {*formats} == {name} and shapes == {(size, size)}), "any")
    with _write_access(target):
        manifest = Manifest(
            source=SOURCE,
            format=same_format,
            size=size,
            channels=channels or (1 if all(header.grey for header in valid) else 3),
            shards=tuple(shards),
            index_sha256=write_index(entries, target),
            build={
                "formats": dict(sorted(formats.items())),
                "broken": headers[None],
                "other members": dict(others.most_common(10)),
            },
            base="" if out is None else (bare(tars.base) if is_remote(where) else str(Path(tars.base).resolve())),
        )
        write_manifest(manifest, target)
    return manifest


def read_image_header(member: Member) -> ImageHeader | None:
    """The header of an image, read without decoding it; None if it is broken."""
    try:
        if member.extension == "npy":
            height, width, *rest = np.load(io.BytesIO(member.data), allow_pickle=False).shape
            return ImageHeader("npy", width, height, rest in ([], [1]))
        with Image.open(io.BytesIO(member.data)) as image:  # its content, because a name may lie
            format = {"JPEG": "jpg", "MPO": "jpg"}.get(image.format or "", (image.format or "").lower())
            return ImageHeader(format, *image.size, image.mode in ("1", "L", "I;16"))
    except (ValueError, OSError, SyntaxError, EOFError, Image.DecompressionBombError):
        return None


def _check_target(target: Path, tars: TarList) -> None:
    """Check, before hours of reading, that ``target`` can hold the index, and that the server can send parts of a tar.

    The index of a built data set, or one of more tars, is not replaced.
    """
    if (target / MANIFEST).exists():
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
    target.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=target).close()
    if is_remote(tars.base):
        first = tars.path(tars.names[0])
        with closing(StorageClient(first, FIRST_PATIENCE)) as client:
            client.size(first)


@contextmanager
def _write_access(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "is a file" if target.is_file() else f"cannot be written ({error.strerror})"
        raise InputError(f"{target} {what}. Give --out FOLDER for the index.") from error


def _read_tars(tars: TarList) -> tuple[list[Shard], list[np.ndarray], Headers, Counter[str]]:
    """The tars that contain images, their ``ENTRY`` arrays, all headers, and the extensions of other members."""
    shards, entries, headers, others = [], [], Headers(), Counter[str]()
    with progress_bar(len(tars.names), 0, unit="shards") as progress:
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
            progress.update(1)
    if not shards:
        names = ", ".join(f"KEY.{extension}" for extension, _ in others.most_common(5)) or "nothing"
        raise InputError(
            f"{redact(tars.base)} holds no images (members named KEY.jpg, .jpeg, .png, .webp or .npy), but {names}."
        )
    return shards, entries, headers, others
