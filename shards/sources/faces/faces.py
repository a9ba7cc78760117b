"""The embedded data set of drawn portraits, so that a first run needs no download and no licence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from shards.sources.faces.face import attributes, sample_face
from shards.sources.faces.portrait import draw_face
from shards.sources.source import Item


@dataclass(frozen=True)
class Faces:
    """The first ``count`` portraits of the infinite set ``seed``, each drawn when it is read, in about 4 ms."""

    name: ClassVar[str] = "faces"
    channels: ClassVar[int] = 3
    upscale: ClassVar[bool] = False
    format: ClassVar[str] = "jpg"
    classes: ClassVar[tuple[str, ...]] = ()

    count: int = 8192
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        """Draw face ``index``: RGB, 256x256, with its attributes. Raises ``IndexError`` outside [0, count)."""
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} of a set of {self.count}")
        face = sample_face(self.seed, index)
        return Item(draw_face(face), f"faces/seed-{self.seed}/{index:06d}", attributes=attributes(face))
