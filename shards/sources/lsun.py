"""LSUN's scenes and objects, read from the LMDBs in which it is distributed, one per category."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import ClassVar, Literal

import lmdb
import xxhash

from shards.common.errors import InputError
from shards.common.names import printable, walk
from shards.sources.source import Item, Items, Source, read_image

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
        return self.pick([index])[0]

    def digest(self) -> str:
        digest = xxhash.xxh3_128()
        for category, folder in self._databases:
            keys, ends = _keys(folder)
            digest.update(f"{category}\0{len(ends)}\0".encode(errors="surrogatepass"))
            digest.update(keys)
            digest.update(ends)
        return digest.hexdigest()

    def pick(self, indexes: Iterable[int]) -> Items:
        """Their keys: the list of all would take 50 bytes an image in every process, and reading much of each LMDB."""
        databases, classes = self._databases, self.classes
        ends = list(accumulate(_count(folder) for _, folder in databases))
        places = []
        for index in indexes:
            if not 0 <= index < ends[-1]:
                raise IndexError(index)
            number = bisect_right(ends, index)
            category, folder = databases[number]
            name = printable(category)
            key = _key(folder, index - (ends[number - 1] if number else 0))
            places.append((folder, key, name, classes.index(name) if classes else None))
        return _Images(tuple(places))


@dataclass(frozen=True)
class _Images(Items):
    """Images by their LMDBs, keys, categories and labels."""

    places: tuple[tuple[Path, bytes, str, int | None], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        folder, key, category, label = self.places[index]
        file = printable(key.decode(errors="backslashreplace"))
        origin = f"{category}/{file}"
        return Item(read_image(_read(folder, key), origin), origin, label, {"file": file})


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
    """Number of images, from the header: reading the keys (three million) takes longer."""
    return int(_open(folder).stat()["entries"])


@cache
def _keys(folder: Path) -> tuple[bytearray, array[int]]:
    """All keys, concatenated, and the offsets of their ends: 150 MB for the three million of ``bedroom``, where bytes
    objects would take 220. The images are not read.
    """
    blob, edges = bytearray(), array("q", [0])
    with _explain_errors(folder), _open(folder).begin() as transaction, transaction.cursor() as cursor:
        for key in cursor.iternext(keys=True, values=False):
            blob += key
            edges.append(len(blob))
    return blob, edges


def _key(folder: Path, index: int) -> bytes:
    """The key of image ``index``, in the order of the keys."""
    blob, edges = _keys(folder)
    return bytes(blob[edges[index] : edges[index + 1]])


def _read(folder: Path, key: bytes) -> bytes:
    with _explain_errors(folder), _open(folder).begin() as transaction:
        value = transaction.get(key)
    if value is None:
        raise InputError(f"{folder / DATA} changed while it was read: the key {key.decode()!r} is gone.")
    return bytes(value)


@contextmanager
def _explain_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise InputError(f"{folder / DATA} is corrupt ({error}). Unpack it again.") from error
