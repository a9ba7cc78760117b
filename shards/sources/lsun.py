"""LSUN's scenes and objects, straight from the LMDBs that it is handed out as, one per category."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal

import lmdb

from shards.common.errors import InputError
from shards.sources.item import Item
from shards.sources.pixels import read_image

DATA = "data.mdb"
Split = Literal["train", "val", "all"]
SPLITS = {"train": ("train", ""), "val": ("val", ""), "all": ("train", "val", "")}
"""What each choice takes, by the word before ``_lmdb``. LSUN's own ``test_lmdb`` has no category: only by its name."""


@dataclass(frozen=True)
class Lsun:
    """The images of one category, where ``raw`` is its LMDB (``bedroom_train_lmdb``), or of all LMDBs in ``raw``.

    Several categories are classes, numbered in the order of ``categories``, or of the alphabet where that is empty and
    all are meant; one alone has no label. ``split`` chooses among the LMDBs in a folder, not about one that ``raw``
    names itself. An item's attributes are ``{"file": key}``.

    Raises:
        InputError: from ``len`` or indexing, when ``raw`` is missing or holds no LMDB, a category is not there, or an
            LMDB is empty, cut off or corrupt.
    """

    name: ClassVar[str] = "lsun"
    channels: ClassVar[int] = 3
    upscale: ClassVar[bool] = False
    format: ClassVar[str] = "jpg"

    raw: Path
    categories: tuple[str, ...] = ()
    split: Split = "train"

    @property
    def classes(self) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(shelf.category for shelf in _shelves(self.raw, self.categories, self.split)))
        return names if len(names) > 1 else ()

    def __len__(self) -> int:
        last = _shelves(self.raw, self.categories, self.split)[-1]
        return last.start + last.count

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shelves = _shelves(self.raw, self.categories, self.split)
        shelf = shelves[bisect_right(shelves, index, key=lambda shelf: shelf.start) - 1]
        key, value = _read(shelf.folder, index - shelf.start)
        file, classes = key.decode(errors="backslashreplace"), self.classes
        origin = f"{shelf.category}/{file}"
        label = classes.index(shelf.category) if classes else None
        return Item(read_image(value, origin), origin, label, {"file": file})


@dataclass(frozen=True)
class _Shelf:
    category: str
    folder: Path
    start: int
    """Index of its first image: how many there are in the LMDBs before it."""
    count: int


@lru_cache(maxsize=2)
def _shelves(raw: Path, categories: tuple[str, ...], split: Split) -> tuple[_Shelf, ...]:
    """The LMDBs in order. Counts come from their heads: three million keys are read where images are, not here."""
    found = _find(raw, split)
    names = dict.fromkeys(category for category, _ in found)
    if unknown := [category for category in categories if category not in names]:
        raise InputError(f"{raw} holds no category {unknown[0]!r}; it has {', '.join(names)}.")
    chosen = [(name, folder) for wanted in categories or names for name, folder in found if name == wanted]
    chosen = list(dict.fromkeys(chosen))  # a category may have been named twice
    counts = [_open(folder).stat()["entries"] for _, folder in chosen]
    starts = accumulate(counts[:-1], initial=0)
    return tuple(_Shelf(*named, start, count) for named, start, count in zip(chosen, starts, counts, strict=True))


def _find(raw: Path, split: Split) -> list[tuple[str, Path]]:
    """Category and folder of each LMDB, sorted."""
    if not raw.is_dir():
        raise InputError(f"{raw} is not a folder. Name an unzipped LMDB, such as bedroom_train_lmdb, or its parent.")
    here = raw.resolve()
    if (here / DATA).is_file():
        return [(_parse(here.name)[0], here)]
    folders = sorted(path.parent for path in here.glob(f"*_lmdb/{DATA}"))
    if not folders:
        raise InputError(f"{raw} neither is nor holds an LMDB: there is no {DATA}, here or in a folder named *_lmdb.")
    names = [(_parse(folder.name), folder) for folder in folders]
    found = sorted((category, folder) for (category, part), folder in names if part in SPLITS[split])
    if not found:
        raise InputError(f"{raw} holds no LMDB of the split {split!r}; it has {', '.join(f.name for f in folders)}.")
    return found


def _parse(folder: str) -> tuple[str, str]:
    """``"church_outdoor_val_lmdb"`` -> ``("church_outdoor", "val")``; without a split it is ``""``."""
    name = folder.removesuffix("_lmdb")
    category, _, part = name.rpartition("_")
    return (category or name, part) if part in ("train", "val", "test") else (name, "")


@cache
def _open(folder: Path) -> lmdb.Environment:
    """Open as long as the process, which may open an LMDB only once; unlocked, so that a read-only disk will do."""
    path = folder / DATA
    try:
        database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise InputError(f"{path} cannot be opened ({error}). Unpack it again.") from error
    wanted = (database.info()["last_pgno"] + 1) * database.stat()["psize"]
    if (size := path.stat().st_size) < wanted:  # reading beyond the end of a mapped file kills the process
        raise InputError(f"{path} is cut off: it has {size} of {wanted} bytes. Unpack it again.")
    if not database.stat()["entries"]:
        raise InputError(f"{path} is empty: an LMDB without a single image.")
    return database


@cache
def _keys(folder: Path) -> tuple[bytearray, array[int]]:
    """All keys, one after the other, and where each begins and ends: 150 MB for the three million of ``bedroom``, where
    as many bytes objects would take 220. The images are not touched.
    """
    blob, edges = bytearray(), array("q", [0])
    with _open(folder).begin() as transaction, transaction.cursor() as cursor:
        for key in cursor.iternext(keys=True, values=False):
            blob += key
            edges.append(len(blob))
    return blob, edges


def _read(folder: Path, index: int) -> tuple[bytes, bytes]:
    """Key and value ``index``, in the order of the keys."""
    try:
        blob, edges = _keys(folder)
        key = bytes(blob[edges[index] : edges[index + 1]])
        with _open(folder).begin() as transaction:
            value = transaction.get(key)
    except lmdb.Error as error:
        raise InputError(f"{folder / DATA} is corrupt ({error}). Unpack it again.") from error
    if value is None:
        raise InputError(f"{folder / DATA} changed while it was read: the key {key!r} is gone.")
    return key, bytes(value)
