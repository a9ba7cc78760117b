"""MNIST, and data sets in the same IDX files (Fashion-MNIST, KMNIST, EMNIST, QMNIST)."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import xxhash
from PIL import Image

from shards.common.errors import InputError
from shards.common.names import walk
from shards.format.image import MAX_BYTES
from shards.sources.source import Item, Source

Split = Literal["train", "test", "all"]
Part = Literal["train", "t10k"]
PARTS: dict[str, tuple[Part, ...]] = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}
NAME = re.compile(r"(.*?)(train|t10k|test)[\W_]?(images|labels)[\W_]?idx\d[\W_]?(?:ubyte|int)(?:\W.*)?", re.IGNORECASE)
"""``emnist-letters-train-images-idx3-ubyte.gz`` or Kaggle's ``train-images.idx3-ubyte``: set, part and kind."""

LAYOUTS = {"images": [(8, 3)], "labels": [(8, 1), (12, 1), (12, 2)]}
"""IDX's code of the type, and number of dimensions. 8: bytes. 12: integers; QMNIST's labels have more columns."""
TYPES: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 12: np.dtype(">i4")}

MAX_LABEL = 65_535


@dataclass(frozen=True)
class Mnist(Source):
    """Grey digits and their labels from the IDX files in or below ``raw``; ``split="all"``: train, then test.

    Raises:
        InputError: from ``len`` or indexing, if a file is missing, cut off or not an IDX file, images and labels do not
            match, or there are several sets.
    """

    name: ClassVar[str] = "mnist"
    channels: ClassVar[int] = 1
    upscale: ClassVar[bool] = True
    """The tutorial resizes 28 to 64. 28 to 32 is resized rather than padded, so that digits fill the same part of the
    image at every size."""
    format: ClassVar[str] = "png"  # lossless, and smaller than JPEG at 64x64 (1.1 against 1.3 kB)

    raw: Path
    split: Split = "train"

    @property
    def classes(self) -> tuple[str, ...]:
        """``0`` to the largest label: ten digits, or more of EMNIST, whose letters begin at 1."""
        return _classes(self.raw)

    def __len__(self) -> int:
        return sum(len(_load(self.raw, part)[1]) for part in PARTS[self.split])

    def __getitem__(self, index: int) -> Item:
        row = index
        for part in PARTS[self.split]:
            images, labels = _load(self.raw, part)
            if row < len(labels):
                return Item(Image.fromarray(images[row]), f"{part}/{row:05d}", int(labels[row]))
            row -= len(labels)
        raise IndexError(index)

    def digest(self) -> str:
        """Of the pixels, too: they are read with the labels."""
        digest = xxhash.xxh3_128()
        for part in PARTS[self.split]:
            for values in _load(self.raw, part):
                digest.update(f"{values.shape}".encode() + values.tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=4)
def _load(raw: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 28, 28), uint8, and labels (count,). Cached per process: 47 MB and 0.3 s for the training set."""
    images, labels = _read_idx(raw, part, "images"), _labels(raw, part)
    if len(images) != len(labels):
        raise InputError(
            f"{raw} holds {len(images)} {part} images but {len(labels)} labels; the files belong to different sets."
        )
    if not images.size:
        raise InputError(f"{raw} holds no {part} images, or empty ones.")
    return images, labels


@lru_cache(maxsize=4)
def _labels(raw: Path, part: Part) -> np.ndarray:
    labels = _read_idx(raw, part, "labels")
    labels = labels[:, 0] if labels.ndim == 2 else labels
    if labels.size and not 0 <= labels.min() <= labels.max() <= MAX_LABEL:
        raise InputError(f"{raw} holds {part} labels from {labels.min()} to {labels.max()}; classes count from 0.")
    return labels


@lru_cache(maxsize=4)
def _classes(raw: Path) -> tuple[str, ...]:
    """Names for the labels of both parts, so that these agree; a part that is missing or broken does not count."""
    largest = 9
    for part in PARTS["all"]:
        with suppress(InputError):
            largest = int(_labels(raw, part).max(initial=largest))
    return tuple(map(str, range(largest + 1)))


def _find(raw: Path) -> dict[tuple[str, str], Path]:
    """The files of one set, by part and kind. ``raw`` is their folder, one above it, or one of the files."""
    folder, chosen = (raw, None) if raw.is_dir() else (raw.parent, NAME.fullmatch(raw.name))
    beside = folder.iterdir() if chosen and raw.is_file() else ()
    names = walk(str(raw)) if raw.is_dir() else (path.name for path in beside)
    sets = defaultdict[tuple[int, str], dict[tuple[str, str], Path]](dict)
    for path in sorted(names, key=lambda path: (len(path), path)):  # shorter first: without .gz
        *above, name = path.split("/")
        match = NAME.fullmatch(name)
        if match is None or (chosen and match[1] != chosen[1]):
            continue
        above = above[:-1] if above and above[-1] == name else above  # some unpackers make a folder for each file
        part = "train" if match[2].lower() == "train" else "t10k"
        sets[len(above), "/".join([*above, match[1]])].setdefault((part, match[3].lower()), folder / path)
    nearest = [files for key, files in sorted(sets.items()) if key[0] == min(sets)[0]]
    if len(nearest) > 1:
        files = ", ".join(str(min(files.values())) for files in nearest)
        raise InputError(f"{raw} holds {len(nearest)} sets. Give a file of one of them as RAW: {files}.")
    return nearest[0] if nearest else {}


def _read_idx(raw: Path, part: Part, kind: Literal["images", "labels"]) -> np.ndarray:
    path = _find(raw).get((part, kind))
    if path is None:
        name = f"{part}-{kind}-idx{LAYOUTS[kind][0][1]}-ubyte"
        raise InputError(f"{raw} holds neither {name} nor {name}.gz. Put MNIST's files there and build again.")
    data = path.read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":  # whatever its name
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}). Download it again.") from error
    code, dimensions = data[2:4] if len(data) >= 4 else (0, 0)
    start = 4 + 4 * dimensions
    if data[:2] != b"\0\0" or (code, dimensions) not in LAYOUTS[kind] or len(data) < start:
        raise InputError(f"{path} is not an IDX file of {kind}. Download it again.")
    dtype = TYPES[code]
    shape = tuple(np.frombuffer(data, ">u4", dimensions, offset=4).tolist())
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise InputError(f"{path} has {len(data)} bytes where its header promises {expected}. Download it again.")
    array: np.ndarray = np.frombuffer(data, dtype, offset=start)
    return array.reshape(shape)
