"""The interface of a source of raw images, and the image decoder that sources share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import xxhash
from PIL import Image

from shards.common.errors import InputError
from shards.format.image import read_image as decode_image


@dataclass(frozen=True)
class Item:
    """One raw image and its annotations."""

    image: Image.Image  # any size and mode; the build crops, resizes and converts it
    origin: str  # name of the raw image in error messages and listings: ``img_align_celeba/000034.jpg``
    label: int | None = None  # class index; written as ``key.cls``
    attributes: Mapping[str, Any] | None = None  # JSON-ready metadata of the image; written as ``key.json``


class Items(Protocol):
    """Raw images in an order, picklable. Reading item i must not depend on which items were read before."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item:
        """Read item ``index``. Raises ``BadImage`` if it is broken and ``OSError`` if the disk fails."""


class Source(Items, Protocol):
    """All raw images of one kind in one place."""

    @property
    def name(self) -> str: ...
    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return 3

    @property
    def upscale(self) -> bool:
        """Whether images smaller than the requested size are enlarged by default."""
        return False

    @property
    def format(self) -> str:
        """The default encoding: ``jpg``, ``png`` or ``npy``."""
        return "jpg"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, by number; empty without labels."""
        return ()

    @property
    def passed_over(self) -> Mapping[str, int]:
        """How many files beside the images are not read, by suffix or name."""
        return {}

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Sub-folders that cannot be read, and why."""
        return {}

    def digest(self) -> str:
        """A digest of the names of the images, their labels and attributes, from what is read before the images. It is
        the same on every machine that sees the same ones, wherever they are.
        """
        ...

    def pick(self, indexes: Iterable[int]) -> Items:
        """The items ``indexes``, for another process, which by default lists the source again to read them."""
        return Picked(self, tuple(map(int, indexes)), len(self))


@dataclass(frozen=True)
class Picked(Items):
    """Items of a source of ``count``, by their indexes."""

    source: Source
    indexes: tuple[int, ...]
    count: int

    def __len__(self) -> int:
        return len(self.indexes)

    def __getitem__(self, index: int) -> Item:
        """As ``Items``; raises ``InputError`` if the number of items of the source changed."""
        if (count := len(self.source)) != self.count:
            raise InputError(f"The raw images changed during the build: {self.count} before, {count} now.")
        return self.source[self.indexes[index]]


def digest_names(*lists: Iterable[str]) -> str:
    """A digest of lists of names, which contain no NUL, in their order."""
    digest = xxhash.xxh3_128()
    for names in lists:
        rest = iter(names)
        while part := [*islice(rest, 2**16)]:  # joined, because a call for each of a hundred million would take minutes
            digest.update("\0".join([*part, ""]).encode(errors="surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


class BadImage(ValueError):
    """One raw image that cannot be used. ``reason`` continues a sentence that starts with ``origin``."""

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(f"{origin} {reason}")
        self.origin = origin


def read_image(data: bytes, origin: str) -> Image.Image:
    """Decode ``data`` as :func:`shards.format.image.read_image` does. Raises ``BadImage`` where that raises."""
    try:
        return decode_image(data)
    except ValueError as error:
        raise BadImage(origin, f"cannot be decoded: {error}") from error
