"""Where in its tar each image lies, so that any sample is one ``pread`` away."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import xxhash

from shards.errors import InputError

ENTRY = np.dtype([("offset", "<u8"), ("digest", "<u8"), ("size", "<u4"), ("header", "<u4")])
"""Per sample: where the image's bytes start in the tar, their XXH3-64, their number, and how many bytes before
``offset`` the member's header starts (512, or more with long names)."""

IMAGES = frozenset({"jpg", "jpeg", "png", "npy", "webp"})
BLOCK = 512


def index_tar(path: Path) -> np.ndarray:
    """Index one uncompressed tar: an ``ENTRY`` array, one row per image, in the order of the tar.

    Reads the whole file once. ``tarfile`` follows PAX and GNU long names and ``prefix`` fields.

    Raises:
        InputError: not a tar, truncated (a tar cut at a member's border ends silently without its end marker), or
            two images under one key.
    """
    rows, keys = [], set()
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                key, extension = split_key(member.name)
                if not member.isfile() or extension.lower() not in IMAGES:
                    continue
                if key in keys:
                    raise InputError(f"{path} holds two images under the key {key!r}; keys must be unique.")
                keys.add(key)
                file.seek(member.offset_data)
                data = file.read(member.size)
                header = member.offset_data - member.offset
                rows.append((member.offset_data, xxhash.xxh3_64_intdigest(data), member.size, header))
            file.seek(tar.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise InputError(f"{path} is truncated: it lacks a tar's end marker. Fetch or build it again.")
    except tarfile.TarError as error:
        raise InputError(f"{path} is not a whole, uncompressed tar ({error}). Fetch or build it again.") from error
    return np.array(rows, dtype=ENTRY)


def split_key(name: str) -> tuple[str, str]:
    """WebDataset's rule: a member's key is its path up to the first dot of the file name; the rest is the extension."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def member_key(header: bytes) -> str:
    """The key of the member whose header blocks (PAX and GNU extensions included) are ``header``."""
    try:
        with tarfile.open(fileobj=io.BytesIO(header + bytes(2 * BLOCK)), mode="r:", ignore_zeros=False) as tar:
            member = tar.next()
    except tarfile.TarError:
        member = None
    if member is None:
        raise InputError("There is no tar header where the index says one is; the shard changed since.")
    return split_key(member.name)[0]
