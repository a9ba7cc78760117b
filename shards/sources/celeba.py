"""CelebA's aligned and cropped faces, from the folder or the zip, with attributes and split."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.common.errors import InputError
from shards.common.names import EXTENSIONS, is_below_junk, printable, suffix
from shards.format.image import MAX_BYTES
from shards.sources.celeba_lists import BROKEN_ZIP, Lists, find_lists
from shards.sources.source import BadImage, Item, Source, digest_names, read_image
from shards.sources.tree import read_file

IMAGES = "img_align_celeba"


@dataclass(frozen=True)
class Celeba(Source):
    """The images under ``raw``: the folder that holds ``img_align_celeba`` or its zip, or one of those two itself.

    Each is cropped to its central ``crop`` pixels: 178 is the largest square of 178x218, 108 the face alone, as in the
    DCGAN papers. If ``list_attr_celeba`` and ``list_eval_partition`` (.txt or .csv) are beside the images, in ``Anno/``
    and ``Eval/`` or in the zip, an item's attributes are ``{"file": name, "split": "train", "Smiling": 1, ...}``.

    ``len`` and indexing raise ``InputError``: no images, a broken zip, a list without an image, no list for the split.
    """

    name: ClassVar[str] = "celeba"

    raw: Path
    crop: int = 178
    split: Literal["all", "train", "valid", "test"] = "all"

    @property
    def passed_over(self) -> Mapping[str, int]:
        return _listing(self.raw, self.split).lists.unread

    def __len__(self) -> int:
        return len(_listing(self.raw, self.split).names)

    def __getitem__(self, index: int) -> Item:
        listing = _listing(self.raw, self.split)
        file = listing.names[index]
        origin = printable(f"{IMAGES}/{file}")
        image = read_image(listing.read(file), origin)
        width, height = image.size
        if not 0 < self.crop <= min(width, height):
            raise BadImage(origin, f"is {width}x{height} pixels, too small for a crop of {self.crop}")
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        image = image.crop((left, top, left + self.crop, top + self.crop))
        attributes: dict[str, Any] = {"file": printable(file), **listing.lists.attributes(file)}
        return Item(image, origin, attributes=attributes)

    def digest(self) -> str:
        listing = _listing(self.raw, self.split)
        lists = listing.lists
        tables = (chain.from_iterable(sorted(table.items())) for table in (lists.rows, lists.splits))
        return digest_names(listing.names, lists.columns, *tables)


@dataclass(frozen=True)
class _Listing:
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    lists: Lists


@lru_cache(maxsize=2)
def _listing(raw: Path, split: str) -> _Listing:
    """Cached per process: a second for all 202,599 images, in a folder or a zip."""
    images = _find(raw.absolute())
    archive = _open_zip(images) if images.is_file() else None
    members = archive.namelist() if archive else os.listdir(images)  # noqa: PTH208  a third of the time of iterdir
    paths = _select_images(members)
    files = {path.rpartition("/")[2]: path for path in paths}
    if len(files) < len(paths):
        raise InputError(f"{images} holds several images of one name. Name the folder of the aligned ones.")
    if not files:
        inside = ", ".join(map(printable, members[:5])) or "nothing"
        raise InputError(f"{images} holds no images, but {inside}. Unpack what is packed, or name another folder.")

    def read(name: str) -> bytes:
        if archive is None:
            return read_file(f"{images}/{name}", f"{IMAGES}/{name}")
        try:
            if (size := archive.getinfo(files[name]).file_size) > MAX_BYTES:
                raise zipfile.BadZipFile(f"{size:,} bytes, more than {MAX_BYTES:,}")
            return archive.read(files[name])
        except BROKEN_ZIP as error:
            origin = printable(f"{IMAGES}/{name}")
            raise BadImage(origin, f"is broken inside {images.name} ({error})") from error

    folders = [raw.absolute(), images.parent]
    while folders[-1].name.lower().startswith("img"):  # Img/ and img_align_celeba/ may hold the images at any depth
        folders.append(folders[-1].parent)
    lists = find_lists(folders, archive, sorted(files))
    names = [name for name in sorted(files) if split == "all" or lists.split(name) == split]
    if not names:
        raise InputError(f"{images} holds no images of the split {split!r}.")
    return _Listing(tuple(names), read, lists)


def _find(raw: Path) -> Path:
    """The folder that holds the images themselves, or a zip."""
    if raw.is_file():
        return raw
    named = [path for depth in ("", "*/", "*/*/") for path in sorted(raw.glob(f"{depth}[Ii][Mm][Gg]_*"))]
    named = [path for path in named if path.name.lower().startswith(IMAGES)]
    named = [path for path in named if not is_below_junk(path.relative_to(raw).as_posix())]
    zips = [path for path in (*named, *sorted(raw.glob("[!.]*.[Zz][Ii][Pp]"))) if suffix(path.name) == ".zip"]
    if found := next(chain(filter(_has_images, (*named, raw)), zips), None):
        return found
    raise InputError(f"{raw} contains no {IMAGES} and no {IMAGES}.zip. Name the folder that CelebA was saved to.")


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(map(_is_image, os.listdir(folder)))  # noqa: PTH208  a third of the time of iterdir


def _is_image(path: str) -> bool:
    return suffix(path) in EXTENSIONS and not is_below_junk(path)


def _select_images(members: Iterable[str]) -> list[str]:
    """The images among ``members`` of a folder or zip; those of ``img_align_celeba`` if there are."""
    images = [*filter(_is_image, members)]
    return [path for path in images if f"/{IMAGES}" in f"/{path.lower()}".rpartition("/")[0]] or images


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Stays open; each process has its own, because reads move its position."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN_ZIP as error:
        raise InputError(f"{path} is not a complete zip file ({error}). Download it again.") from error
    for member in archive.infolist():  # some systems write backslashes
        member.filename = member.filename.replace("\\", "/")
        archive.NameToInfo[member.filename] = member
    return archive
