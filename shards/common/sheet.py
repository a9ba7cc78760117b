"""A contact sheet: images side by side in one picture.

``torchvision.utils.make_grid`` imports ``torch._dynamo``, 1.3 s of CPU time, and ``shards info`` works without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from shards.common.files import atomic_write
from shards.common.names import printable

GAP = 2  # pixels between two images
MARGIN = 4  # pixels beside the name of a row


def write_sheet(
    images: np.ndarray, path: Path, metadata: Mapping[str, str] | None = None, rows: Sequence[str] = ()
) -> None:
    """Write ``images``, uint8 (n, height, width, channels), row by row as one near-square PNG, atomically.

    With the names of ``rows``, image i is in row i mod len(rows), whose name stands on the left, unless there are more
    rows than images. ``metadata`` becomes the file's text chunks, an image's ``info`` in Pillow.
    """
    count, height, width, channels = images.shape
    named = 0 < len(rows) <= count
    columns = math.ceil(count / len(rows) if named else math.sqrt(count))
    lines = len(rows) if named else math.ceil(count / columns)
    cells = np.zeros((lines * columns, height + GAP, width + GAP, channels), np.uint8)
    cells[:count, GAP:, GAP:] = images
    if named:  # the images are in columns
        cells = cells.reshape(columns, lines, *cells.shape[1:]).swapaxes(0, 1).reshape(cells.shape)
    grid = cells.reshape(lines, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = np.pad(grid.reshape(lines * (height + GAP), -1, channels), ((0, GAP), (0, GAP), (0, 0)))
    if named:
        sheet = np.concatenate([_draw_names(rows, height + GAP, sheet.shape), sheet], 1)
    text = PngInfo()
    for key, value in (metadata or {}).items():
        text.add_text(key, value)
    with atomic_write(path) as file:
        Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(file, "png", pnginfo=text)


def _draw_names(rows: Sequence[str], pitch: int, shape: tuple[int, ...]) -> np.ndarray:
    """The names of ``rows``, each ``pitch`` pixels below the last, right-aligned beside a sheet of this shape."""
    font = ImageFont.load_default(max(8, min(16, pitch - GAP)))
    names = [printable(name) for name in rows]
    width = MARGIN + math.ceil(max(font.getlength(name) for name in names)) + MARGIN
    image = Image.new("L" if shape[2] == 1 else "RGB", (width, shape[0]))
    draw = ImageDraw.Draw(image)
    for number, name in enumerate(names):
        middle = number * pitch + (GAP + pitch) / 2
        draw.text((width - MARGIN, middle), name, (200,) * shape[2] if shape[2] > 1 else 200, font, anchor="rm")
    return np.asarray(image).reshape(shape[0], width, shape[2])
