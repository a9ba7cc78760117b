from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from shards.format.codec import DECODERS, encode, fit

FORMATS = ("jpg", "png", "npy")
IMAGES = st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3])).flatmap(
    lambda shape: arrays.arrays(np.uint8, shape)
)


def decode(data: bytes, format: str, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, 123, np.uint8)
    DECODERS[format](data, out)
    return out


def smooth(channels: int) -> np.ndarray:
    y, x = np.mgrid[0:64, 0:64]
    return np.stack([(2 * x + y) // 3 * 3 % 256, x + y, 255 - x], axis=-1).astype(np.uint8)[:, :, :channels]


@pytest.mark.parametrize("format", ["png", "npy"])
@given(image=IMAGES)
def test_lossless_formats_come_back(format: str, image: np.ndarray) -> None:
    assert np.array_equal(decode(encode(image, format), format, image.shape), image)


@given(image=IMAGES)
def test_any_image_becomes_a_jpeg_of_its_shape(image: np.ndarray) -> None:
    assert decode(encode(image, "jpg"), "jpg", image.shape).shape == image.shape


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_near(channels: int) -> None:
    image = smooth(channels)
    error = np.abs(decode(encode(image, "jpg"), "jpg", image.shape).astype(int) - image)
    assert error.mean() < 1.5
    assert error.max() < 12


@pytest.mark.parametrize("format", FORMATS)
def test_equal_images_give_equal_bytes_wherever_they_lie(format: str) -> None:
    image = smooth(3)
    strided = np.repeat(np.repeat(image, 2, 0), 2, 1)[::2, ::2]
    assert encode(image, format) == encode(strided, format) == encode(image.copy(), format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (128, 128, 3), (64, 63, 3)])
def test_another_size_than_expected_is_an_error(format: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        decode(encode(smooth(3), format), format, shape)


@pytest.mark.parametrize("format", FORMATS)
def test_broken_bytes_are_an_error(format: str) -> None:
    data = encode(smooth(3), format)
    for broken in (b"", data[:10], data[: len(data) // 2], b"hello" * 500):
        with pytest.raises(ValueError):
            decode(broken, format, (64, 64, 3))


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
