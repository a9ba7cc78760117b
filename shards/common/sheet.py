"""A contact sheet: images side by side in one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shards.common.files import atomic_write

GAP = 2
"""Pixels between two images."""


def write_sheet(images: np.ndarray, path: Path, told: Mapping[str, str] | None = None) -> None:
    """Write ``images``, uint8 (n, height, width, channels), as one near-square PNG, row by row; whole or not at all.

    ``told`` goes into the file as text: what Pillow has in an image's ``info``.
    """
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    text = PngInfo()
    for key, value in (told or {}).items():
        text.add_text(key, value)
    with atomic_write(path) as file:
        Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(file, "png", pnginfo=text)
