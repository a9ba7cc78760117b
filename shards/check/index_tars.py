"""Indexes the tars of other tools, without changing them, and finds out which images they contain."""

from __future__ import annotations

import io
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.common.errors import InputError
from shards.common.files import compute_sha256
from shards.common.names import EXTENSIONS, printable, suffix
from shards.common.progress import progress_bar
from shards.common.urls import bare, is_remote, redact, refuse_url
from shards.format.codec import DECODERS
from shards.format.image import read_header
from shards.format.index import ENTRY, HIDDEN, Member, walk_tar, write_index
from shards.format.manifest import MANIFEST, Manifest, Shard, read_manifest, write_manifest
from shards.storage.client import FIRST_PATIENCE, StorageClient
from shards.storage.tars import TarList, list_tars

SOURCE = "tars"
SIZES = (32, 64, 128, 256)  # in pixels, of the images that need no resizing


LOST = (*EXTENSIONS, ".npy", ".heic", ".heif", ".hif", ".jxl")
"""Suffixes of members that look like images."""


@dataclass(frozen=True)
class Kind:
    """What an image has in common with others."""

    format: str
    size: int  # one of SIZES of a square of this size, otherwise 0
    grey: bool


@dataclass
class Contents:
    """What is in the tars."""

    shards: list[Shard] = field(default_factory=list)  # those with images
    entries: list[np.ndarray] = field(default_factory=list)  # their ``ENTRY`` arrays
    kinds: Counter[Kind] = field(default_factory=Counter)  # how many images are of each, without the broken ones
    broken: int = 0
    first_broken: str = ""
    others: Counter[str] = field(default_factory=Counter)  # extensions of the other members

    def add(self, member: Member, tar: str) -> None:
        """Count an image. Only the first of a kind is decoded, so that no broken image decides for others."""
        try:
            format, (width, height), grey = read_header(member.data)
            kind = Kind(format, width if width == height and width in SIZES else 0, grey)
            if kind not in self.kinds:
                DECODERS["any"](member.data, np.empty((SIZES[0], SIZES[0], 3), np.uint8))
            self.kinds[kind] += 1
        except ValueError as error:
            self.broken += 1
            self.first_broken = self.first_broken or f"{member.key!r} of {tar}: {error}"

    def find_problems(self) -> Iterator[str]:
        """What a person who indexes these tars should know."""
        if self.broken:
            yield f"{self.broken:,} images are broken; training replaces them. The first is {self.first_broken}."
        if hidden := self.others[HIDDEN]:
            yield f"{hidden:,} members are hidden, or in folders such as .cache or @eaDir, and are not read."
        lost = Counter({name: count for name, count in self.others.items() if suffix(f"KEY.{name}") in LOST})
        if lost:
            yield (
                f"{lost.total():,} members look like images but are not read, such as KEY.{lost.most_common(1)[0][0]}. "
                "A WebDataset's extension begins at the first dot of the file name. Images have .jpg, .jpeg, .png, "
                ".webp or .npy. Rename the others."
            )


def index_tars(where: str, out: Path | None = None, size: int | None = None, channels: int | None = None) -> Manifest:
    """Index the tars at ``where``, which are read once, from end to end, and not changed.

    See :class:`shards.check.commands.Index` for the arguments.

    Raises:
        InputError: there are no tars, one is broken, ``out`` holds another index, or the server ignores ranges.
    """
    tars = list_tars(where)
    if out is None and is_remote(where):
        raise InputError("Give --out FOLDER for the index of tars behind a URL.")
    if out is not None:
        refuse_url(out)
    target = out or Path(tars.base)
    with _write_access(target):
        _check_target(target, tars)
    contents = _read_tars(tars)
    for problem in contents.find_problems():
        print(f"Warning: {printable(problem)}", file=sys.stderr, flush=True)
    formats = Counter[str]()
    for kind, count in contents.kinds.items():
        formats[kind.format] += count
    sizes = {kind.size for kind in contents.kinds}
    size = size or (max(sizes) if len(sizes) == 1 else 0) or 64
    same_format = next((name for name in ("jpg", "png") if {*formats} == {name} and sizes == {size}), "any")
    with _write_access(target):
        manifest = Manifest(
            source=SOURCE,
            format=same_format,
            size=size,
            channels=channels or (1 if all(kind.grey for kind in contents.kinds) else 3),
            shards=tuple(contents.shards),
            index_sha256=write_index(contents.entries, target),
            build={
                "formats": dict(sorted(formats.items())),
                "broken": contents.broken,
                "other members": dict(contents.others.most_common(10)),
            },
            base="" if out is None else (bare(tars.base) if is_remote(where) else str(Path(tars.base).resolve())),
        )
        write_manifest(manifest, target)
    return manifest


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


def _read_tars(tars: TarList) -> Contents:
    contents = Contents()
    with progress_bar(len(tars.names), 0, unit="shards") as progress:
        for name in tars.names:
            with tars.open(name) as file:
                rows = []
                for member in walk_tar(file, redact(tars.path(name)), contents.others):
                    rows.append(member.entry)
                    contents.add(member, name)
                if rows:
                    checksum = "" if is_remote(tars.base) else compute_sha256(file)  # a second fetch of a remote tar
                    contents.shards.append(Shard(name, len(rows), file.seek(0, io.SEEK_END), checksum))
                    contents.entries.append(np.array(rows, ENTRY))
            progress.update(1)
    if not contents.kinds:
        what = f"only broken ones. The first is {contents.first_broken}"
        if not contents.broken:
            kinds = [name for name, _ in contents.others.most_common(5)]
            names = ", ".join(name if name == HIDDEN else f"KEY.{name}" for name in kinds) or "nothing"
            what = f"but {names}. Images are members named KEY.jpg, .jpeg, .png, .webp or .npy, with no other dot"
        raise InputError(f"{redact(tars.base)} holds no images, {what}.")
    return contents
