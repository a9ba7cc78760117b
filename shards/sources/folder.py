"""Any folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from shards.common.errors import InputError
from shards.sources.source import Item, Source, read_image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")


@dataclass(frozen=True)
class Folder(Source):
    """Every image under ``raw``, at any depth, sorted by path; hidden files and folders are ignored.

    If all images are in sub-folders, the first-level sub-folder is the class. ``attributes`` contains the path.

    Raises:
        InputError: from ``len`` or indexing, if ``raw`` is not a folder or contains no images.
    """

    name: ClassVar[str] = "folder"

    raw: Path
    channels: Literal[1, 3] = 3

    @property
    def classes(self) -> tuple[str, ...]:
        return _listing(self.raw)[1]

    def __len__(self) -> int:
        return len(_listing(self.raw)[0])

    def __getitem__(self, index: int) -> Item:
        paths, classes = _listing(self.raw)
        path = paths[index]
        label = classes.index(path.partition("/")[0]) if classes else None
        return Item(read_image((self.raw / path).read_bytes(), path), path, label, {"file": path})


@lru_cache(maxsize=2)
def _listing(raw: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths relative to ``raw`` with forward slashes, and the classes. Cached per process; no ``stat`` per file."""
    if not raw.is_dir():
        raise InputError(f"{raw} is not a folder. Name the folder that holds the images.")
    paths = tuple(sorted(_walk(raw)))
    if not paths:
        raise InputError(f"{raw} holds no images ({' '.join(sorted(EXTENSIONS))}).")
    classes = {path.partition("/")[0] for path in paths} if all("/" in path for path in paths) else set()
    return paths, tuple(sorted(classes))


def _walk(raw: Path) -> Iterator[str]:
    seen = set()  # links to class folders are followed, and a link can point to its parent
    for folder, folders, files in os.walk(raw, onerror=_raise, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS:
                yield Path(folder, name).relative_to(raw).as_posix()


def _raise(error: OSError) -> None:
    raise error  # os.walk would silently skip an unreadable folder
