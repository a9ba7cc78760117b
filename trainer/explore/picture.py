"""Puts images together on white pages and writes them as PNG, GIF and JSON.

``torchvision.utils.make_grid`` could replace :func:`table`, but importing torchvision costs 1.6 s of CPU time for each
picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from shards.common.errors import InputError
from shards.common.files import atomic_write

PAPER, INK, ACCENT = (255, 255, 255), (70, 70, 70), (214, 92, 48)
GAP = 6
"""Pixels between the images of a table."""
CAPTION = 22
"""Height in pixels of a caption."""
MIN_SIDE = 96
"""Samples are enlarged to at least this many pixels, so that they can be seen and a caption fits below them."""
FRAME_MS = 60
"""Duration of a frame of a GIF in milliseconds."""


@dataclass(frozen=True)
class Picture:
    """A page, metadata on what it shows (JSON-ready), and the frames of an endless loop if there is one."""

    page: Image.Image
    metadata: dict[str, Any]
    loop: tuple[Image.Image, ...] = ()

    def save(self, path: Path, record: Mapping[str, Any]) -> None:
        """Writes the page to ``path`` (.png), the loop beside it (.gif) and ``record`` (.json), each atomically.

        Raises:
            InputError: a file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                ImageOps.expand(self.page, 16, PAPER).save(file, "png", optimize=True)
            if self.loop:
                first, *others = _share_palette(self.loop)
                with atomic_write(path.with_suffix(".gif")) as file:
                    first.save(file, "gif", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
            with atomic_write(path.with_suffix(".json")) as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}). Give another --out.") from error


def enlarge(pixels: np.ndarray) -> Image.Image:
    """Enlarges a sample, uint8 (height, width, 1 or 3), by a whole factor: 3 at 32 pixels, 2 at 64, 1 from 96 on."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    return ImageOps.scale(image, math.ceil(MIN_SIDE / min(image.size)), Image.Resampling.NEAREST)


def captioned(image: Image.Image, text: str) -> Image.Image:
    """Adds ``text`` below ``image``."""
    page = ImageOps.expand(image, (0, 0, 0, CAPTION), PAPER)
    position = (image.width / 2, image.height + CAPTION / 2)
    ImageDraw.Draw(page).text(position, text, INK, ImageFont.load_default(15), anchor="mm")
    return page


def framed(image: Image.Image) -> Image.Image:
    """Paints the outermost pixels of a copy of ``image`` as a frame."""
    page = image.copy()
    ImageDraw.Draw(page).rectangle((0, 0, image.width - 1, image.height - 1), outline=ACCENT, width=3)
    return page


def sign(kind: str, height: int) -> Image.Image:
    """Draws ``+``, ``-`` or ``=`` in the middle of a box of ``height`` pixels; the font has no true minus."""
    arm, width = 11, 44
    page = Image.new("RGB", (width, height), PAPER)
    draw, x, y = ImageDraw.Draw(page), width // 2, height // 2
    for offset in {"+": (0,), "-": (0,), "=": (-5, 5)}[kind]:
        draw.rectangle((x - arm, y + offset - 1, x + arm, y + offset + 1), INK)
    if kind == "+":
        draw.rectangle((x - 1, y - arm, x + 1, y + arm), INK)
    return page


def table(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lays out images of one size row by row."""
    width, height = (length + GAP for length in images[0].size)
    rows = math.ceil(len(images) / columns)
    page = Image.new("RGB", (columns * width - GAP, rows * height - GAP), PAPER)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        page.paste(image, (column * width, row * height))
    return page


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Lays out images from left to right, aligned at the bottom."""
    height = max(image.height for image in images)
    padded = [ImageOps.expand(image, (0, height - image.height, 0, 0), PAPER) for image in images]
    return Image.fromarray(np.hstack([np.asarray(image) for image in padded]))


def above(top: Image.Image, bottom: Image.Image, gap: int) -> Image.Image:
    """Lays out two images one above the other, with ``bottom`` centred below ``top`` or the reverse."""
    page = Image.new("RGB", (max(top.width, bottom.width), top.height + gap + bottom.height), PAPER)
    page.paste(top, ((page.width - top.width) // 2, 0))
    page.paste(bottom, ((page.width - bottom.width) // 2, top.height + gap))
    return page


def _share_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Quantizes all frames with one palette of 256 colours; with one palette each, still areas would flicker."""
    film = Image.fromarray(np.vstack([np.asarray(frame) for frame in frames]))
    palette = film.quantize(256)
    return [frame.quantize(palette=palette) for frame in frames]
