from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.study.grids import COLUMNS, read_samples, write_rows
from shards.common.sheet import GAP, write_sheet


def drawn(count: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 5, 5, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 9, 64])
def test_the_samples_of_a_sheet_are_those_that_were_written(tmp_path: Path, count: int, channels: int) -> None:
    images = drawn(count, channels)
    write_sheet(images, tmp_path / "sheet.png")
    assert np.array_equal(read_samples(tmp_path / "sheet.png", 5)[:count], images)


def test_each_variant_has_a_row(tmp_path: Path) -> None:
    sheets = {"recipe": drawn(64, 3, 1), "no-r2": drawn(64, 3, 2)}
    for name, images in sheets.items():
        write_sheet(images, tmp_path / f"{name}.png")
    write_rows(tmp_path, [*sheets], 5, tmp_path / "grids.png")
    with Image.open(tmp_path / "grids.png") as image:
        pixels = np.asarray(image)
    left = pixels.shape[1] - COLUMNS * (5 + GAP)  # the names, and a gap
    for line, images in enumerate(sheets.values()):
        top = GAP + line * (5 + GAP)
        for column in range(COLUMNS):
            start = left + column * (5 + GAP)
            assert np.array_equal(pixels[top : top + 5, start : start + 5], images[column])
