"""What a source of raw images is: an indexable sequence of items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class Item:
    """One raw image on its way into a shard."""

    image: Image.Image
    """Any size and mode; the build crops, resizes and converts it."""
    origin: str
    """Where it came from, for error messages and for tracing a sample back: ``img_align_celeba/000034.jpg``."""
    label: int | None = None
    """Class index; written as ``key.cls``."""
    attributes: Mapping[str, Any] | None = None
    """JSON-ready facts about the image; written as ``key.json``."""


class Source(Protocol):
    """An ordered, picklable set of raw images. Reading item i must not depend on which items were read before."""

    @property
    def name(self) -> str: ...
    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""

    @property
    def upscale(self) -> bool:
        """Whether images smaller than the requested size may be enlarged rather than refused."""

    @property
    def format(self) -> str:
        """The encoding to choose when the user names none: ``jpg``, ``png`` or ``npy``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, by number; empty without labels."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Item:
        """Read item ``index``; raises ``BadImage`` when it is broken, ``OSError`` when the disk is at fault."""
