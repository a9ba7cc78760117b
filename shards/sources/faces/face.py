"""The attributes of a drawn face, and how they are sampled.

Face i of seed s is a pure function of ``(s, i)``. Its attributes are known exactly, so that latent arithmetic can be
tested.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

FACES = 0xFACE
"""Second word of the Philox key: separates these draws from every other stream of the same seed."""
SMILING = 0.35
"""``Face.smile`` above this counts as smiling; the sampled smiles leave a gap around it."""

# Colours are 0xRRGGBB. The order of a palette determines which face a seed gives: do not change it.
SKINS = (0xFFE0CA, 0xF4C7A6, 0xD9A078, 0xA66E4C, 0x704834)
HAIRS = {"black": 0x241E24, "brown": 0x5E3A26, "auburn": 0x9E4626, "blond": 0xE8C270, "grey": 0xB4B4BC}
EYES = {"brown": 0x5C3820, "blue": 0x3E7ABE, "green": 0x48865C, "grey": 0x70808C}
CLOTHES = {"navy": 0x2C3E68, "brick": 0xB04A3E, "teal": 0x2E8080, "cream": 0xF0EADE}
BACKGROUNDS = {"sand": 0xECDCC0, "sky": 0xB0D0E8, "mint": 0xB8DCC8, "lilac": 0xCEC4E4, "slate": 0x748296}
STYLES = ("swept", "parted", "fringe", "curly")


@dataclass(frozen=True)
class Face:
    """Everything that determines one portrait.

    Strings are names from the palettes above. ``mouth_open``, ``skin`` (fair to deep) and ``hair_length`` (cropped to
    over the shoulders) are in [0, 1]. The other floats are in [-1, 1], and 0 is neutral: ``smile`` (frown to broad
    smile), ``brow_tilt`` (worried to stern), ``yaw`` (14 degrees to the image's left or right), ``face_width`` (slender
    to round). Only men are sampled with a beard.
    """

    man: bool
    smile: float
    mouth_open: float
    glasses: bool
    beard: bool
    skin: float
    hair: str
    hair_length: float
    hair_style: str
    eyes: str
    brow_tilt: float
    yaw: float
    face_width: float
    clothes: str
    background: str


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
