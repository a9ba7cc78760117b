"""The embedded data set of drawn portraits, so that a first run needs no download and no licence.

Face i of seed s is a pure function of ``(s, i)``. Its attributes are known exactly, so that latent arithmetic can be
tested.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np

from shards.sources.portrait import BACKGROUNDS, CLOTHES, EYES, HAIRS, STYLES, Face, draw_face
from shards.sources.source import Item, Source

FACES = 0xFACE  # second word of the Philox key: separates these draws from every other stream of the same seed
SMILING = 0.35  # Face.smile above this counts as smiling; the sampled smiles leave a gap around it


@dataclass(frozen=True)
class Faces(Source):
    """The first ``count`` portraits of the infinite set ``seed``, each drawn when it is read, in about 4 ms."""

    name: ClassVar[str] = "faces"

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

    def digest(self) -> str:
        return ""  # nothing but the options decides what is drawn


def attributes(face: Face) -> dict[str, int | float | str]:
    """All fields, JSON-ready, with booleans as 0 or 1 as in CelebA, and the derived ``woman`` and ``smiling``."""
    values = {name: int(value) if isinstance(value, bool) else value for name, value in asdict(face).items()}
    return values | {"woman": int(not face.man), "smiling": int(face.smile > SMILING)}


def sample_face(seed: int, index: int) -> Face:
    """Sample face ``index`` of the infinite set ``seed``; both must be in [0, 2**64), else ``OverflowError``.

    Half are men, half smile. Hair length depends on sex, colours of hair and eyes on skin, and open mouths on smiling;
    everything else is independent.
    """
    key, counter = np.array([seed, FACES], np.uint64), np.array([0, 0, index, 0], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key, counter=counter))

    def chance(p: float) -> bool:
        return bool(rng.random() < p)

    man, smiling, skin = chance(0.5), chance(0.5), rng.random()
    long, parted_lips = chance(0.08 if man else 0.85), chance(0.75 if smiling else 0.15)
    hairs = (1 - skin) * np.array([0.1, 0.2, 0.25, 0.35, 0.1]) + skin * np.array([0.6, 0.25, 0.05, 0.0, 0.1])
    irises = (1 - skin) * np.array([0.2, 0.4, 0.2, 0.2]) + skin * np.array([0.9, 0.0, 0.05, 0.05])
    return Face(
        man=man,
        smile=rng.uniform(0.5, 1.0) if smiling else rng.uniform(-0.6, 0.2),
        mouth_open=rng.uniform(0.3, 1.0) if parted_lips else 0.0,
        glasses=chance(0.3),
        beard=chance(0.4) and man,
        skin=skin,
        hair=str(rng.choice(list(HAIRS), p=hairs)),
        hair_length=rng.uniform(0.55, 1.0) if long else rng.uniform(0.0, 0.3),
        hair_style=str(rng.choice(STYLES)),
        eyes=str(rng.choice(list(EYES), p=irises)),
        brow_tilt=rng.uniform(-1.0, 1.0),
        yaw=rng.triangular(-1.0, 0.0, 1.0),
        face_width=rng.uniform(-1.0, 1.0),
        clothes=str(rng.choice(list(CLOTHES))),
        background=str(rng.choice(list(BACKGROUNDS))),
    )
