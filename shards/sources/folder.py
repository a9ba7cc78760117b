"""Any folder of images."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

from shards.common.errors import InputError
from shards.common.names import EXTENSIONS, printable
from shards.sources.source import Item, Items, Source, digest_names, read_image
from shards.sources.tree import Images, find_images, read_file


@dataclass(frozen=True)
class Folder(Source):
    """Every image under ``raw``, at any depth, sorted by path; hidden files and what systems leave are ignored.

    If all images are in sub-folders, the first-level sub-folder is the class. ``attributes`` contains the path.

    Raises:
        InputError: from ``len`` or indexing, if ``raw`` is not a folder or contains no images.
    """

    name: ClassVar[str] = "folder"

    raw: Path
    channels: Literal[1, 3] = 3

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(printable, _listing(self.raw)[1]))

    @property
    def passed_over(self) -> Mapping[str, int]:
        return _listing(self.raw)[0].passed_over

    @property
    def unreadable(self) -> Mapping[str, str]:
        return _listing(self.raw)[0].unreadable

    def __len__(self) -> int:
        return len(_listing(self.raw)[0].paths)

    def __getitem__(self, index: int) -> Item:
        return self.pick([index])[0]

    def digest(self) -> str:
        return digest_names(_listing(self.raw)[0].paths)

    def pick(self, indexes: Iterable[int]) -> Items:
        """Their paths: the list of all would take 100 bytes an image in every process, and reading many folders."""
        images, classes = _listing(self.raw)
        paths = tuple(images.paths[index] for index in indexes)
        labels = tuple(bisect_left(classes, path.partition("/")[0]) if classes else None for path in paths)
        return _Files(self.raw, paths, labels)


@dataclass(frozen=True)
class _Files(Items):
    """Images by their paths below ``raw``, and their labels."""

    raw: Path
    paths: tuple[str, ...]
    labels: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        path = self.paths[index]
        origin = printable(path)
        image = read_image(read_file(f"{self.raw}/{path}", path), origin)
        return Item(image, origin, self.labels[index], {"file": origin})


@lru_cache(maxsize=2)
def _listing(raw: Path) -> tuple[Images, tuple[str, ...]]:
    """The images, and the sub-folders that are classes. Cached per process."""
    if not raw.is_dir():
        raise InputError(f"{raw} is not a folder. Name the folder that holds the images.")
    images = find_images(str(raw))
    if not images.paths:
        others = [f"{count:,} {suffix}" for suffix, count in images.passed_over.items()]
        others += [f"{folder} cannot be read ({reason})" for folder, reason in images.unreadable.items()]
        what = f"; it has {', '.join(others[:10])}" if others else ""
        raise InputError(f"{raw} holds no images ({' '.join(sorted(EXTENSIONS))}){what}.")
    classes = {path.partition("/")[0] for path in images.paths} if all("/" in path for path in images.paths) else set()
    return images, tuple(sorted(classes))
