"""The index of a tar: where each image starts, so that one ``pread`` reads any sample."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.names import is_below_junk, printable
from shards.format.image import MAX_BYTES
from shards.format.manifest import INDEX

ENTRY = np.dtype([("offset", "<u8"), ("digest", "<u8"), ("size", "<u4"), ("header", "<u4")])
"""Per sample: first byte of the image in the tar, XXH3-64 of its bytes, their number, and the length of the member's
header before them (512 bytes, or more with long names)."""

IMAGES = frozenset({"jpg", "jpeg", "png", "npy", "webp"})
BLOCK = 512
HIDDEN = "hidden"  # what is hidden, or left beside images by a system
GZIP = b"\x1f\x8b"
ZEROS = 1 << 20  # bytes that are read at once behind an end marker


@dataclass(frozen=True)
class Member:
    """An image in a tar."""

    key: str
    offset: int
    header: int
    data: bytes

    @property
    def entry(self) -> tuple[int, int, int, int]:
        """The values of ``ENTRY``."""
        return self.offset, xxhash.xxh3_64_intdigest(self.data), len(self.data), self.header


def write_index(entries: Sequence[np.ndarray], folder: Path) -> str:
    """Write ``index.npy``, the ``ENTRY`` arrays of all shards, to ``folder``; returns its SHA-256 (hex).

    As ``np.save`` would write one array, which for a hundred million samples is a copy of 2.4 GB.
    """
    header, digest = io.BytesIO(), hashlib.sha256()
    shape = (sum(map(len, entries)),)
    np.lib.format.write_array_header_1_0(header, {"descr": ENTRY.descr, "fortran_order": False, "shape": shape})
    with atomic_write(folder / INDEX) as file:
        for part in [np.frombuffer(header.getvalue(), np.uint8), *entries]:
            file.write(data := part.view(np.uint8).data)
            digest.update(data)
    return digest.hexdigest()


def walk_tar(file: BinaryIO, name: str, others: Counter[str] | None = None) -> Iterator[Member]:
    """Yield every image of the uncompressed tar ``file``, in its order; reads it once.

    Errors call the tar ``name``. ``others`` counts the other members, by extension or as ``HIDDEN``.

    Raises:
        InputError: as :func:`walk_members`; two images have one key; an image is a link, sparse or too large.
    """
    keys = set()
    for part, member in walk_members(file, name):
        key, extension = split_key(member.name)
        if not is_image(member):
            if others is not None and not member.isdir():
                others[HIDDEN if is_below_junk(member.name) else printable(extension.lower())] += 1
            continue
        if problem := _find_problem(member):
            raise InputError(f"{name} holds the image {member.name!r} {problem}.")
        if (part, key) in keys:
            raise InputError(f"{name} holds two images under the key {key!r}; keys must be unique.")
        keys.add((part, key))
        file.seek(member.offset_data)
        data = file.read(member.size)
        yield Member(key, member.offset_data, member.offset_data - member.offset, data)


def is_image(member: tarfile.TarInfo) -> bool:
    """Whether its name is that of an image, and not of what systems leave beside images; links count, too."""
    return split_key(member.name)[1].lower() in IMAGES and not member.isdir() and not is_below_junk(member.name)


def _find_problem(member: tarfile.TarInfo) -> str:
    if not member.isfile():
        return "as a link or a device. Pack it with tar --hard-dereference -h"
    if member.issparse():
        return "without its zeros, as a sparse file. Pack it without tar's --sparse (-S)"
    if member.size > MAX_BYTES:
        return f"of {member.size:,} bytes, more than {MAX_BYTES:,}. Pack it without this file"
    return ""


def walk_members(file: BinaryIO, name: str, start: int = 0) -> Iterator[tuple[int, tarfile.TarInfo]]:
    """Yield every member of an uncompressed tar from the byte ``start`` on, and where its part begins: a file may be
    several tars, joined by cat.

    Raises:
        InputError: not a tar, truncated (``tarfile`` ignores a missing end marker), or followed by something else.
    """
    part: int | None = start
    try:
        while part is not None:
            file.seek(part)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    yield part, member
                    tar.members.clear()  # type: ignore[attr-defined]  # the list of all members would take 1 kB each
            part = _find_next_part(file, tar.offset, name)
    except (InputError, OSError):
        raise
    except Exception as error:  # MemoryError and ValueError, too: sizes and numbers in a broken header may be any
        file.seek(0)
        if file.read(2) == GZIP:
            raise InputError(f"{name} is gzipped, so random access is impossible. Unpack it with gunzip.") from None
        raise InputError(f"{name} is not a whole, uncompressed tar ({error}). Fetch or build it again.") from error


def _find_next_part(file: BinaryIO, end: int, name: str) -> int | None:
    """The place of the tar behind the one whose end marker is at ``end``; None if only zeros follow."""
    file.seek(end)
    block = file.read(BLOCK)
    if not block:
        raise InputError(f"{name} is truncated: it lacks a tar's end marker. Fetch or build it again.")
    if block != bytes(BLOCK):
        raise InputError(
            f"{name} is not a whole tar: byte {end} begins neither a member nor the end. Fetch or build it again."
        )
    while block:
        if rest := block.lstrip(b"\0"):
            return (file.tell() - len(rest)) // BLOCK * BLOCK
        block = file.read(ZEROS)
    return None


def split_key(name: str) -> tuple[str, str]:
    """Split a member's name by WebDataset's rule: the extension starts after the first dot of the file name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def member_key(header: bytes) -> str:
    """The key, as text in one line, of the member with the header blocks ``header`` (of PAX and GNU too)."""
    try:
        with tarfile.open(fileobj=io.BytesIO(header + bytes(2 * BLOCK)), mode="r:") as tar:
            return printable(split_key(next(iter(tar)).name)[0])
    except (tarfile.TarError, StopIteration):
        raise InputError("There is no tar header where the index says one is; the shard changed.") from None
