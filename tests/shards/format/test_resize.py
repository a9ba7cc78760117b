from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.format.resize import fit


@given(
    width=st.integers(32, 90), height=st.integers(32, 90), level=st.integers(0, 255), channels=st.sampled_from([1, 3])
)
def test_a_flat_picture_stays_flat(width: int, height: int, level: int, channels: int) -> None:
    pixels = fit(Image.new("RGB", (width, height), (level,) * 3), 32, channels)
    assert pixels.shape == (32, 32, channels)
    assert pixels.dtype == np.uint8
    assert (pixels == level).all()


def test_what_is_finer_than_a_pixel_becomes_its_mean() -> None:
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    inner = fit(Image.fromarray(board), 64, 1)[2:-2, 2:-2].astype(int)
    assert np.abs(inner - 127.5).max() <= 1.5


def test_the_square_is_the_middle() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    wide, tall = fit(Image.fromarray(ramp), 50, 1), fit(Image.fromarray(ramp.T.copy()), 50, 1)
    assert np.array_equal(wide[:, :, 0], tall[:, :, 0].T)
    assert abs(wide.mean() - ramp.mean()) <= 0.5


def test_small_pictures_are_refused_unless_wanted() -> None:
    small = Image.new("RGB", (63, 80), "red")
    with pytest.raises(ValueError, match="is 63x80 pixels, smaller than 64x64"):
        fit(small, 64, 3)
    assert fit(small, 64, 3, upscale=True).shape == (64, 64, 3)
