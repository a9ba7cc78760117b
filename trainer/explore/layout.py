"""White pages with pictures on them: boxes put side by side and below each other. Each function makes an image of
images; all are RGB, or become it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, ACCENT = (255, 255, 255), (70, 70, 70), (214, 92, 48)
GAP = 6
"""Pixels between the images of a table."""
SIDE = 96
"""Samples are enlarged to at least so many pixels, so that people see them and the numbers have room."""


def enlarge(pixels: np.ndarray) -> Image.Image:
    """A sample, uint8 (height, width, 1 or 3), by a whole factor: 3 at 32 pixels, 2 at 64, 1 from 96 on."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    factor = math.ceil(SIDE / min(image.size))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def captioned(image: Image.Image, text: str) -> Image.Image:
    """``image`` with ``text`` below it; nothing of the image is covered."""
    font = ImageFont.load_default(15)
    page = Image.new("RGB", (image.width, image.height + 22), PAPER)
    page.paste(image)
    ImageDraw.Draw(page).text((image.width / 2, image.height + 11), text, INK, font, anchor="mm")
    return page


def framed(image: Image.Image) -> Image.Image:
    """``image`` of the same size, its outermost pixels painted: the one to look at."""
    page = image.copy()
    ImageDraw.Draw(page).rectangle((0, 0, image.width - 1, image.height - 1), outline=ACCENT, width=3)
    return page


def sign(kind: str, height: int) -> Image.Image:
    """``+``, ``-`` or ``=`` in the middle of a box ``height`` pixels high. Drawn: the font knows no true minus."""
    arm, width = 11, 44
    page = Image.new("RGB", (width, height), PAPER)
    pen, x, y = ImageDraw.Draw(page), width // 2, height // 2
    for offset in {"+": (0,), "-": (0,), "=": (-5, 5)}[kind]:
        pen.rectangle((x - arm, y + offset - 1, x + arm, y + offset + 1), INK)
    if kind == "+":
        pen.rectangle((x - 1, y - arm, x + 1, y + arm), INK)
    return page


def table(images: Sequence[Image.Image], columns: int, gap: int = GAP) -> Image.Image:
    """Images of one size, row by row."""
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        page.paste(image, (column * (width + gap), row * (height + gap)))
    return page


def beside(images: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """From left to right, standing on one line."""
    height = max(image.height for image in images)
    page = Image.new("RGB", (sum(image.width + gap for image in images) - gap, height), PAPER)
    left = 0
    for image in images:
        page.paste(image, (left, height - image.height))
        left += image.width + gap
    return page


def below(images: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """From top to bottom, each in the middle of the page's width."""
    width = max(image.width for image in images)
    page = Image.new("RGB", (width, sum(image.height + gap for image in images) - gap), PAPER)
    top = 0
    for image in images:
        page.paste(image, ((width - image.width) // 2, top))
        top += image.height + gap
    return page


def lifted(image: Image.Image, height: int) -> Image.Image:
    """``image`` with so many white pixels below it."""
    page = Image.new("RGB", (image.width, image.height + height), PAPER)
    page.paste(image)
    return page


def margin(image: Image.Image, width: int = 16) -> Image.Image:
    """White on all four sides."""
    page = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width), PAPER)
    page.paste(image, (width, width))
    return page
