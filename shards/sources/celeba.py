"""CelebA's aligned and cropped faces, from the folder or straight from the zip, with attributes and split."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.common.errors import InputError
from shards.sources.item import Item
from shards.sources.pixels import BadImage, read_image

IMAGES = "img_align_celeba"
SPLITS = {"0": "train", "1": "valid", "2": "test"}


@dataclass(frozen=True)
class Celeba:
    """The images under ``raw``: the folder that holds ``img_align_celeba`` or its zip, or one of those two itself.

    Each is cut to its centred ``crop`` pixels: 178 is the largest square of 178x218, 108 the face alone, as in the
    DCGAN papers. Where ``list_attr_celeba.txt`` and ``list_eval_partition.txt`` lie beside the images (or in ``Anno/``
    and ``Eval/``), an item's attributes are ``{"file": name, "split": "train", "Smiling": 1, ...}``.

    Raises:
        InputError: from ``len`` or indexing, when no images are there, the zip is broken, a list lacks an image, or a
            split is asked for without its list.
    """

    name: ClassVar[str] = "celeba"
    channels: ClassVar[int] = 3
    upscale: ClassVar[bool] = False
    format: ClassVar[str] = "jpg"
    classes: ClassVar[tuple[str, ...]] = ()

    raw: Path
    crop: int = 178
    split: Literal["all", "train", "valid", "test"] = "all"

    def __len__(self) -> int:
        return len(_catalogue(self.raw, self.split).names)

    def __getitem__(self, index: int) -> Item:
        catalogue = _catalogue(self.raw, self.split)
        file = catalogue.names[index]
        origin = f"{IMAGES}/{file}"
        image = read_image(catalogue.read(file), origin)
        width, height = image.size
        if not 0 < self.crop <= min(width, height):
            raise BadImage(origin, f"is {width}x{height} pixels, too small for a crop of {self.crop}")
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        image = image.crop((left, top, left + self.crop, top + self.crop))
        return Item(image, origin, attributes=catalogue.attributes(file))


@dataclass(frozen=True)
class _Catalogue:
    names: tuple[str, ...]
    read: Callable[[str], bytes]
    columns: tuple[str, ...]
    rows: Mapping[str, str]
    """Per image its line of the list, split only when asked for: 200,000 dicts would cost a second and 1 GB."""
    splits: Mapping[str, str]

    def attributes(self, file: str) -> dict[str, Any]:
        split = {"split": SPLITS[self.splits[file].strip()]} if self.splits else {}
        marks = self.rows[file].split() if self.rows else []
        return {
            "file": file,
            **split,
            **{name: int(mark == "1") for name, mark in zip(self.columns, marks, strict=True)},
        }


@lru_cache(maxsize=2)
def _catalogue(raw: Path, split: str) -> _Catalogue:
    """Listed once per process: 0.5 s for all 202,599, be it folder or zip."""
    images = _find(raw)
    names, read = _open_zip(images) if images.is_file() else _open_folder(images)
    lists = (images.parent, raw, raw / "Anno", raw / "Eval")
    splits = _rows(lists, "list_eval_partition.txt", names, 0)
    rows = _rows(lists, "list_attr_celeba.txt", names, 2)
    columns = tuple(rows.pop("").split())
    splits.pop("")
    if split != "all":
        if not splits:
            raise InputError(f"{raw} holds no list_eval_partition.txt, so no split {split!r} can be told apart.")
        names = [name for name in names if SPLITS.get(splits[name].strip()) == split]
    if not names:
        raise InputError(f"{images} holds no .jpg images of the split {split!r}.")
    return _Catalogue(tuple(names), read, columns, rows, splits)


def _find(raw: Path) -> Path:
    if raw.is_file():
        return raw
    for folder in (raw, raw / "Img"):
        for images in (folder / IMAGES, folder / f"{IMAGES}.zip"):
            if images.exists():
                return images
    if raw.is_dir() and any(raw.glob("*.jpg")):
        return raw
    raise InputError(f"{raw} neither is nor holds {IMAGES} or {IMAGES}.zip. Name the folder that CelebA was saved to.")


def _open_folder(folder: Path) -> tuple[list[str], Callable[[str], bytes]]:
    names = sorted(path.name for path in folder.iterdir() if path.suffix == ".jpg")
    return names, lambda name: (folder / name).read_bytes()


def _open_zip(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)  # open as long as the process; each process has its own, as they seek
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is not a whole zip file ({error}). Fetch it again.") from error
    members = {name.rpartition("/")[2]: name for name in archive.namelist() if name.endswith(".jpg")}

    def read(name: str) -> bytes:
        try:
            return archive.read(members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise BadImage(f"{IMAGES}/{name}", f"is broken inside {path.name} ({error})") from error

    return sorted(members), read


def _rows(folders: tuple[Path, ...], file: str, names: list[str], header: int) -> dict[str, str]:
    """Per image name the rest of its line, and under "" the last header line; empty where there is no such file."""
    path = next((folder / file for folder in folders if (folder / file).is_file()), None)
    if path is None:
        return {"": ""}
    lines = path.read_text().splitlines()
    rows = {"": lines[header - 1] if header else ""}
    for line in lines[header:]:
        name, _, rest = line.partition(" ")
        rows[name] = rest
    missing = next((name for name in names if name not in rows), None)
    if missing is not None:
        raise InputError(f"{path} has no line for {missing}. Fetch it again, or move it away to build without it.")
    return rows
