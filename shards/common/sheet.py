"""A contact sheet: images side by side in one picture.

``torchvision.utils.make_grid`` imports ``torch._dynamo``, 1.3 s of CPU time, and ``shards info`` works without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shards.common.files import atomic_write

GAP = 2  # pixels between two images


def write_sheet(images: np.ndarray, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write ``images``, uint8 (n, height, width, channels), row by row as one near-square PNG, atomically.

    ``metadata`` becomes the file's text chunks, an image's ``info`` in Pillow.
    """
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + GAP, width + GAP, channels), np.uint8)
    cells[:count, GAP:, GAP:] = images
    grid = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    sheet = np.pad(grid.reshape(rows * (height + GAP), -1, channels), ((0, GAP), (0, GAP), (0, 0)))
    text = PngInfo()
    for key, value in (metadata or {}).items():
        text.add_text(key, value)
    with atomic_write(path) as file:
        Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet).save(file, "png", pnginfo=text)
