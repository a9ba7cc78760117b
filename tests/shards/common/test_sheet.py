from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.common.sheet import GAP, write_sheet


@given(count=st.integers(1, 20), size=st.integers(1, 8), channels=st.sampled_from([1, 3]))
def test_every_image_is_on_the_sheet(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: int, channels: int
) -> None:
    images = np.random.default_rng(count).integers(1, 256, (count, size, size + 1, channels), dtype=np.uint8)
    path: Path = tmp_path_factory.mktemp("sheet") / "x.png"
    write_sheet(images, path)
    with Image.open(path) as picture:
        sheet = np.asarray(picture).reshape(picture.height, picture.width, channels)
    columns = int(np.ceil(np.sqrt(count)))
    for number, image in enumerate(images):
        top, left = (GAP + n * (s + GAP) for n, s in zip(divmod(number, columns), image.shape[:2], strict=True))
        assert np.array_equal(sheet[top : top + size, left : left + size + 1], image)
    assert (sheet > 0).sum() == (images > 0).sum()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [3, 7, 12])
def test_every_class_has_a_row_with_its_name(tmp_path: Path, channels: int, count: int) -> None:
    """The names stand in a margin on the left. The last column may have gaps."""
    images = np.random.default_rng(count).integers(1, 256, (count, 9, 8, channels), dtype=np.uint8)
    write_sheet(images, tmp_path / "x.png", rows=("a", "", "a long name"))
    with Image.open(tmp_path / "x.png") as picture:
        sheet = np.asarray(picture).reshape(picture.height, picture.width, channels)
    margin = sheet.shape[1] - GAP - int(np.ceil(count / 3)) * (8 + GAP)
    assert margin > 11 and sheet.shape[0] == GAP + 3 * (9 + GAP)
    for number, image in enumerate(images):
        top, left = GAP + number % 3 * (9 + GAP), margin + GAP + number // 3 * (8 + GAP)
        assert np.array_equal(sheet[top : top + 9, left : left + 8], image)
    ink = [(sheet[row * (9 + GAP) : (row + 1) * (9 + GAP), :margin] > 0).sum() for row in range(3)]
    assert 0 == ink[1] < ink[0] < ink[2]
    assert (sheet[:, margin:] > 0).sum() == (images > 0).sum()


def test_more_classes_than_images_have_no_rows(tmp_path: Path) -> None:
    images = np.full((4, 8, 8, 3), 200, np.uint8)
    write_sheet(images, tmp_path / "x.png", rows=("a", "b", "c", "d", "e"))
    write_sheet(images, tmp_path / "y.png")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "y.png").read_bytes()
