"""One picture of a study: a row of samples for each variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from shards.common.sheet import GAP, write_sheet

COLUMNS = 12


def write_rows(grids: Path, variants: Sequence[str], size: int, out: Path) -> None:
    """Writes the first samples, of ``size`` pixels, of the sheet ``grids``/VARIANT.png of each variant to ``out``."""
    rows = [read_samples(grids / f"{name}.png", size)[:COLUMNS] for name in variants]
    count = min(map(len, rows))
    columns = [row[number] for number in range(count) for row in rows]  # as write_sheet takes the images of named rows
    write_sheet(np.stack(columns), out, rows=variants)


def read_samples(sheet: Path, size: int) -> np.ndarray:
    """The images, uint8 (n, size, size, channels), of a sheet that :func:`write_sheet` wrote without names."""
    with Image.open(sheet, formats=["PNG"]) as image:
        pixels = np.asarray(image)
    pixels = pixels[GAP:, GAP:].reshape(pixels.shape[0] - GAP, pixels.shape[1] - GAP, -1)
    pitch = size + GAP
    lines, columns = pixels.shape[0] // pitch, pixels.shape[1] // pitch
    cells = pixels[: lines * pitch, : columns * pitch].reshape(lines, pitch, columns, pitch, -1).swapaxes(1, 2)
    return cells[:, :, :size, :size].reshape(lines * columns, size, size, -1)
