"""Draws portraits with Pillow.

As in aligned CelebA, the eyes are at nearly the same place in every face, so that a small GAN learns quickly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from shards.sources.pen import Pen, Points, Reals, between, ellipse, mix, rgb, span

# Colours are 0xRRGGBB. The order of a palette determines which face a seed gives: do not change it.
SKINS = (0xFFE0CA, 0xF4C7A6, 0xD9A078, 0xA66E4C, 0x704834)
HAIRS = {"black": 0x241E24, "brown": 0x5E3A26, "auburn": 0x9E4626, "blond": 0xE8C270, "grey": 0xB4B4BC}
EYES = {"brown": 0x5C3820, "blue": 0x3E7ABE, "green": 0x48865C, "grey": 0x70808C}
CLOTHES = {"navy": 0x2C3E68, "brick": 0xB04A3E, "teal": 0x2E8080, "cream": 0xF0EADE}
BACKGROUNDS = {"sand": 0xECDCC0, "sky": 0xB0D0E8, "mint": 0xB8DCC8, "lilac": 0xCEC4E4, "slate": 0x748296}
STYLES = ("swept", "parted", "fringe", "curly")
WHITE, DARK, RED = 0xFFFFFF, 0x281A1C, 0xC8343C


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


def draw_face(face: Face, canvas: int = 256) -> Image.Image:
    """Draw ``face`` as an RGB image of ``canvas`` x ``canvas`` pixels. Edges are hard: downscale with antialiasing."""
    wall, image = BACKGROUNDS[face.background], Image.new("RGB", (1, 2))
    image.putdata([rgb(mix(wall, WHITE, 0.3)), rgb(wall)])
    image = image.resize((1, canvas), Image.Resampling.BICUBIC).resize((canvas, canvas), Image.Resampling.NEAREST)
    pen = Pen(image, 0.25 * face.yaw)
    for part in (_body, _skin, _nose, _mouth, _eyes, _hair_in_front, _glasses):
        part(pen, face)
    return image


def _skin_tone(face: Face) -> int:
    low = min(int(face.skin * (len(SKINS) - 1)), len(SKINS) - 2)
    return mix(SKINS[low], SKINS[low + 1], face.skin * (len(SKINS) - 1) - low)


def _half_width(face: Face) -> float:
    """Half of the largest width of the face."""
    return 0.74 + 0.05 * face.face_width


def _silhouette(face: Face) -> Points:
    """The head without hair, clockwise from the top: half an ellipse, then the chin, which is squarer for men."""
    t = np.pi * (1.0 + span(64))
    y = -np.cos(t)
    jaw = np.maximum(y, 0.0)
    half = np.sqrt(1.0 - np.where(y < 0.0, y * y, jaw ** (2.5 if face.man else 2.1)))
    half *= _half_width(face) * (1.0 - (0.1 if face.man else 0.2) * jaw)
    return np.sign(np.sin(t)) * half + 0.06 * face.yaw * jaw + 1j * y


def _hair_sides(face: Face, end: float) -> tuple[Points, Points]:
    """Left and right outline of the hair, each from the crown down to the height ``end``."""
    curly = face.hair_style == "curly"
    top = 1.08 + 0.1 * min(1.0, 3.0 * face.hair_length) + 0.05 * curly
    y = -top + (end + top) * np.linspace(0.0, 1.0, 40) ** 1.5  # denser near the crown, where the outline is flat
    cap = np.sqrt(np.maximum(1.0 - (np.minimum(y + 0.1, 0.0) / (top - 0.1)) ** 2, 0.0))
    widest = _half_width(face) + 0.05 + 0.12 * min(1.0, 2.0 * face.hair_length)
    cap *= 1.0 - 0.16 * (end > 0.2) * np.clip(1.0 - (end - y) / 0.4, 0.0, 1.0) ** 2  # tips curl in
    x = cap * (widest * (1.0 + 0.1 * face.hair_length * np.maximum(y, 0.0)) + 0.035 * curly * np.sin(17.0 * y))
    return -x + 1j * y, x + 1j * y


def _hair_end(face: Face) -> float:
    return 1.6 * face.hair_length**2


def _hairline(face: Face, u: Reals) -> Reals:
    """Height of the hairline at ``u``, in [-1, 1] across the face."""
    if face.hair_style == "fringe":
        return -0.42 + 0.36 * np.abs(u) ** 6 + 0.02 * np.cos(22.0 * u)
    if face.hair_style == "parted":
        return -0.82 + 0.75 * np.where(u < -0.35, (-0.35 - u) / 0.65, np.abs(u + 0.35) / 1.35) ** 1.2
    return -0.66 + 0.6 * u**4 + (0.05 * np.abs(np.sin(9.0 * u)) if face.hair_style == "curly" else 0.0)


def _body(pen: Pen, face: Face) -> None:
    """Everything behind the face: hair, clothes, neck and ears."""
    cloth, tone, neck = CLOTHES[face.clothes], _skin_tone(face), 0.42 if face.man else 0.33
    pen.flat(between(*_hair_sides(face, _hair_end(face) - 0.05)), mix(HAIRS[face.hair], DARK, 0.3))
    pen.flat(ellipse(1.9j, 1.6 if face.man else 1.4, 0.88, 2.6), cloth)
    pen.flat(ellipse(1.14j, neck + 0.14, 0.2), mix(cloth, DARK, 0.25))
    pen.flat(ellipse(1.12j, neck + 0.07, 0.17), tone)
    pen.flat(ellipse(0.8j, neck, 0.45, 4.0), tone)
    pen.flat(ellipse(0.75j, neck, 0.37, 3.0), mix(tone, DARK, 0.25))
    for x in (-_half_width(face), _half_width(face)):
        pen.flat(ellipse(1.03 * x - 0.1 * face.yaw + 0.06j, 0.11, 0.2), mix(tone, DARK, 0.12))
        pen.flat(ellipse(1.03 * x - 0.1 * face.yaw + 0.06j, 0.06, 0.13), mix(tone, RED, 0.25))


def _skin(pen: Pen, face: Face) -> None:
    """The head, its shading, cheeks and beard."""
    tone, shape = _skin_tone(face), _silhouette(face)
    shade, light = mix(tone, DARK, 0.16), mix(tone, WHITE, 0.1)
    for t in (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9):
        pen.flat(shape * (1.0 - 0.55 * t) - (0.12 + 0.08j) * t, mix(shade, light, t))
    for x in (-0.42, 0.42):
        for size in (1.0, 0.8, 0.6):
            pen.face(ellipse(x + (0.36 - 0.05 * face.smile) * 1j, 0.21 * size, 0.17 * size), mix(tone, RED, 0.6), 24)
    if face.beard:
        jaw = shape[17:48]
        from_middle = np.abs(jaw.real / _half_width(face) - pen.turn)
        cheek = jaw.real + 1j * np.minimum(0.4 - 0.36 * from_middle**3, jaw.imag)
        pen.flat(between(jaw, cheek), mix(HAIRS[face.hair], DARK, 0.2), 235)


def _nose(pen: Pen, face: Face) -> None:
    tone, wing = _skin_tone(face), 0.15 if face.man else 0.12
    shade = mix(tone, DARK, 0.3)
    pen.face(np.array([0.04 - 0.05j, 0.05 - 0.05j, 0.13 + 0.3j, 0.04 + 0.3j]), shade, 110, 0.1)
    pen.face(ellipse(0.29j, wing, 0.08), shade, 120, 0.14)
    pen.face(ellipse(-0.02 + 0.25j, wing - 0.05, 0.07), mix(tone, WHITE, 0.25), 255, 0.16)
    for x in (-0.06, 0.06):
        pen.face(ellipse(x + 0.325j, 0.03, 0.018), mix(tone, DARK, 0.65), 255, 0.14)


def _mouth(pen: Pen, face: Face) -> None:
    u = span(25)
    arch, bow = 1.0 - u * u, 1.0 - 0.3 * np.exp(-30.0 * u * u)
    rest = u * (0.26 + 0.1 * max(face.smile, 0.0)) + 1j * (0.58 + face.smile * (0.07 - 0.18 * u * u))
    gap = 1j * (0.03 + 0.18 * face.mouth_open) * arch
    upper, lower = rest - 0.3 * gap, rest + 0.7 * gap
    lips = mix(_skin_tone(face), RED, 0.4 if face.man else 0.75)
    pen.face(between(upper - 0.07j * np.sqrt(arch) * bow, upper), mix(lips, DARK, 0.12))
    pen.face(between(lower, lower + 0.09j * np.sqrt(arch)), lips)
    pen.face(between(upper, lower), 0x60161E)
    if face.mouth_open:
        pen.face(between(upper, upper + 0.6 * gap), WHITE)


def _eyes(pen: Pen, face: Face) -> None:
    """Eyes and brows."""
    u, v = span(17), span(15)
    arch, lash = 1.0 - u * u, 0.035 if face.man else 0.055
    half = 1j * (0.058 if face.man else 0.036) * np.sqrt(1.02 - v * v)
    for side in (-1, 1):
        x = 0.35 * side
        upper = x + 0.19 * u - 0.04j - 0.13j * arch
        lower = x + 0.19 * u - 0.04j + (0.1 - 0.03 * max(face.smile, 0.0)) * 1j * arch
        pen.face(ellipse(x - 0.08j, 0.25, 0.17), mix(_skin_tone(face), DARK, 0.4), 40)
        pen.face(between(upper, lower), WHITE)
        pen.face(ellipse(x - 0.065j, 0.1, 0.1), EYES[face.eyes])
        pen.face(ellipse(x - 0.065j, 0.05, 0.05), 0x0C0A0E)
        pen.face(ellipse(x - 0.035 - 0.1j, 0.03, 0.03), WHITE)
        pen.face(between(upper * 1.02 - 1j * lash * (0.6 + 0.4 * side * u), upper + 0.012j), DARK)
        y = -0.3 - 0.05 * (1.0 - v * v) + face.brow_tilt * (0.03 - 0.07 * side * v)
        brow = 0.36 * side + 0.23 * v + 1j * y
        pen.face(between(brow - half, brow + half), mix(HAIRS[face.hair], DARK, 0.45))


def _hair_in_front(pen: Pen, face: Face) -> None:
    colour = HAIRS[face.hair]
    left, right = _hair_sides(face, -0.05)
    crown = np.concatenate([left[::-1], right[1:]])
    line = _hairline(face, np.clip(crown.real / _half_width(face) - 0.25 * pen.turn, -1.0, 1.0))
    depth = 1j * np.maximum(line - crown.imag, 0.0)
    pen.flat(between(crown, crown + depth), colour)
    for t in (0.1, 0.17, 0.24):
        pen.flat(between(crown + t * depth, crown + (0.7 - t) * depth) * 0.96, mix(colour, WHITE, 0.5), 24)
    if face.hair_length > 0.4:
        for side in _hair_sides(face, _hair_end(face)):
            lock = side[side.imag > -0.6]
            x, y = np.abs(lock.real), lock.imag
            tip = np.sqrt(1.0 - np.clip(1.0 - (_hair_end(face) - y) / 0.3, 0.0, 1.0) ** 2)
            inner = x - tip * np.maximum(x - _half_width(face) + 0.07 - 0.12 * np.abs(y - 0.2), 0.0)
            pen.flat(between(lock, np.sign(lock.real) * inner + 1j * y), colour)


def _glasses(pen: Pen, face: Face) -> None:
    if not face.glasses:
        return
    u = span(5)
    pen.face(between(0.1 * u - 0.1j + 0.04j * u * u, 0.1 * u - 0.05j + 0.04j * u * u), DARK, 255, 0.08)
    for side in (-1, 1):
        outer, inner = (ellipse(0.36 * side - 0.04j, 0.24 + rim, 0.19 + rim, 3.0) for rim in (0.05, 0.0))
        pen.face(inner, WHITE, 28, 0.05)
        pen.face(between(outer, inner), DARK, 255, 0.05)
        pen.face(side * np.array([0.62, 0.8, 0.8, 0.62]) + np.array([-0.12j, -0.12j, -0.06j, -0.06j]), DARK)
