"""LSUN's scenes and objects, read from the LMDBs in which it is distributed, one per category."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

import lmdb

from shards.common.errors import InputError
from shards.common.names import printable, walk
from shards.sources.source import Item, Source, read_image

DATA = "data.mdb"
Split = Literal["train", "val", "all"]
SPLITS = {"train": ("train", ""), "val": ("val", ""), "all": ("train", "val", "")}
"""Names before ``_lmdb`` that each split includes. LSUN's ``test_lmdb`` has no category and is read only as ``raw``."""


@dataclass(frozen=True)
class Lsun(Source):
    """The images of one category, where ``raw`` is its LMDB (``bedroom_train_lmdb``, ``cat``), or of all below ``raw``.

    Several categories become classes, numbered in the order of ``categories``; if that is empty, all categories in
    alphabetical order. A single category has no label. ``split`` selects LMDBs of a folder and is ignored if ``raw``
    is itself an LMDB. An item's attributes are ``{"file": key}``.

    ``len`` and indexing raise ``InputError`` if ``raw`` is missing or holds no LMDB, a category is missing, or an LMDB
    is empty, cut off or corrupt.
    """

    name: ClassVar[str] = "lsun"

    raw: Path
    categories: tuple[str, ...] = ()
    split: Split = "train"

    @property
    def classes(self) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(printable(category) for category, _ in self._databases))
        return names if len(names) > 1 else ()

    @property
    def unreadable(self) -> Mapping[str, str]:
        return _listing(self.raw, self.categories, self.split)[1]

    @property
    def _databases(self) -> tuple[tuple[str, Path], ...]:
        return _listing(self.raw, self.categories, self.split)[0]

    def __len__(self) -> int:
        return sum(_count(folder) for _, folder in self._databases)

    def __getitem__(self, index: int) -> Item:
        row = index
        for category, folder in self._databases:
            if 0 <= row < _count(folder):
                key, value = _read(folder, row)
                file, classes = printable(key.decode(errors="backslashreplace")), self.classes
                label = classes.index(printable(category)) if classes else None
                origin = f"{printable(category)}/{file}"
                return Item(read_image(value, origin), origin, label, {"file": file})
            row -= _count(folder)
        raise IndexError(index)


@lru_cache(maxsize=2)
def _listing(
    raw: Path, categories: tuple[str, ...], split: Split
) -> tuple[tuple[tuple[str, Path], ...], Mapping[str, str]]:
    """Category and folder of each LMDB, in the order of the labels; sub-folders that cannot be read, and why."""
    if not raw.is_dir():
        raise InputError(f"{raw} is not a folder. Name an unzipped LMDB, such as bedroom_train_lmdb, or its parent.")
    here = raw.resolve()
    unreadable = dict[str, str]()
    paths = [DATA] if (here / DATA).is_file() else walk(str(here), unreadable)
    files = [here / path for path in paths if path.endswith((DATA, ".zip"))]
    folders = sorted(path.parent for path in files if path.name == DATA)
    parsed = [(*_parse(folder.name), folder) for folder in folders]
    for one, other in pairwise(sorted(parsed)):
        if one[:2] == other[:2]:
            raise InputError(f"{raw} holds the same category twice: {one[2]} and {other[2]}. Name one of these.")
    databases = sorted((name, folder) for name, part, folder in parsed if part in SPLITS[split] or folder == here)
    if not databases:
        packed = [path.name for path in files if path.suffix == ".zip"]
        others = ", ".join(printable(name) for name in [folder.name for folder in folders] or packed)
        what = f"it has {others or f'no folder with a {DATA}'}{' to unpack' if packed and not folders else ''}"
        raise InputError(f"{raw} holds no LMDB of the split {split!r}; {what}.")
    names = dict.fromkeys(category for category, _ in databases)
    if unknown := [category for category in categories if category not in names]:
        raise InputError(f"{raw} holds no category {unknown[0]!r}; it has {', '.join(names)}.")
    chosen = dict.fromkeys(categories or names)  # a category may be named twice
    return tuple(item for category in chosen for item in databases if item[0] == category), unreadable


def _parse(folder: str) -> tuple[str, str]:
    """``"church_outdoor_val_lmdb"`` -> ``("church_outdoor", "val")``; the split is ``""`` if there is none."""
    name = folder.removesuffix("_lmdb")
    category, _, suffix = name.rpartition("_")
    return (category or name, suffix) if suffix in ("train", "val", "test") else (name, "")


@cache
def _open(folder: Path) -> lmdb.Environment:
    """Stays open, because a process may open an LMDB only once. No lock file, so that a read-only disk works."""
    path = folder / DATA
    try:
        database = lmdb.open(os.fsencode(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise InputError(f"{path} cannot be opened ({error}). Unpack it again.") from error
    expected = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if (size := path.stat().st_size) < expected:  # reading beyond the end of a mapped file kills the process
        raise InputError(f"{path} is cut off: it has {size} of {expected} bytes. Unpack it again.")
    if not database.stat()["entries"]:
        raise InputError(f"{path} is empty: the LMDB contains no images.")
    return database


def _count(folder: Path) -> int:
    """Number of images, from the header: the keys (three million) are read only with the images."""
    return int(_open(folder).stat()["entries"])


@cache
def _keys(folder: Path) -> tuple[bytearray, array[int]]:
    """All keys, concatenated, and the offsets of their ends: 150 MB for the three million of ``bedroom``, where bytes
    objects would take 220. The images are not read.
    """
    blob, edges = bytearray(), array("q", [0])
    with _open(folder).begin() as transaction, transaction.cursor() as cursor:
        for key in cursor.iternext(keys=True, values=False):
            blob += key
            edges.append(len(blob))
    return blob, edges


def _read(folder: Path, index: int) -> tuple[bytes, bytes]:
    """Key and value of image ``index``, in the order of the keys."""
    try:
        blob, edges = _keys(folder)
        key = bytes(blob[edges[index] : edges[index + 1]])
        with _open(folder).begin() as transaction:
            value = transaction.get(key)
    except lmdb.Error as error:
        raise InputError(f"{folder / DATA} is corrupt ({error}). Unpack it again.") from error
    if value is None:
        raise InputError(f"{folder / DATA} changed while it was read: the key {key.decode()!r} is gone.")
    return key, bytes(value)
