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
