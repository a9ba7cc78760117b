"""Images to bytes and back: JPEG, PNG and raw ``.npy``; pictures of any size and mode to square uint8 arrays."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image

from shards.format.image import flatten, read_image, scan_jpeg

JPEG_QUALITY = 95  # in full colour: 64x64 faces take about 4 kB and show no blocks that a discriminator could learn
FILTER = Image.Resampling.BICUBIC
"""Antialiased; clean-fid uses it too. Lanczos takes 1.7 times as long, and resizing is the slowest step of a build."""

NPY = np.lib.format.MAGIC_PREFIX + b"\1\0"  # start of a .npy file of version 1.0; two bytes of header length follow

Decoder = Callable[[bytes, np.ndarray], None]
"""Decodes one image into a preallocated uint8 array (height, width, channels); ``ValueError`` if it does not fit."""


def encode(image: np.ndarray, format: str) -> bytes:
    """Encode one uint8 image (height, width, channels), channels 1 or 3. Equal images give equal bytes."""
    image = np.ascontiguousarray(image)
    if format == "jpg":
        colours = ("GRAY", "Gray") if image.shape[2] == 1 else ("RGB", "444")
        return bytes(simplejpeg.encode_jpeg(image, JPEG_QUALITY, colorspace=colours[0], colorsubsampling=colours[1]))
    file = io.BytesIO()
    if format == "png":
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "png")
    elif format == "npy":
        np.lib.format.write_array(file, image, allow_pickle=False)
    else:
        raise ValueError(f"images cannot be encoded as {format!r}")
    return file.getvalue()


def fit(image: Image.Image, size: int, channels: int, upscale: bool = False) -> np.ndarray:
    """The largest centred square of ``image``, resized: uint8 (size, size, channels), channels 1 (grey) or 3 (RGB).

    Transparent pixels become white; 16-bit grey is scaled to 8 bits.

    Raises:
        ValueError: the image is too small, or its range of values undefined. The message continues the image's name.
    """
    width, height = image.size
    side = min(width, height)
    if side < size and not upscale:
        raise ValueError(f"is {width}x{height} pixels, smaller than {size}x{size}; --upscale enlarges such images")
    left, top = (width - side) // 2, (height - side) // 2
    flat = flatten(image, "L" if channels == 1 else "RGB")
    square = flat.resize((size, size), FILTER, box=(left, top, left + side, top + side))
    return np.asarray(square).reshape(size, size, channels)


def _decode_jpg(data: bytes, out: np.ndarray) -> None:
    if not _decode_fast(data, out):
        _decode_png(data, out)


def _decode_png(data: bytes, out: np.ndarray) -> None:
    image = read_image(data)
    if image.size != (out.shape[1], out.shape[0]):
        raise ValueError(f"is {image.width}x{image.height}, expected {out.shape[1]}x{out.shape[0]}")
    out[:] = np.asarray(flatten(image, "L" if out.shape[2] == 1 else "RGB")).reshape(out.shape)


def _decode_npy(data: bytes, out: np.ndarray) -> None:
    start = len(data) - out.nbytes
    if not data.startswith(NPY) or 10 + data[8] + (data[9] << 8) != start:
        raise ValueError("not a .npy file of the expected size")
    out.data.cast("B")[:] = memoryview(data)[start:]  # half the time of a NumPy view of the data


def _decode_any(data: bytes, out: np.ndarray) -> None:
    """Decode and :func:`fit` an image of any encoding and size."""
    if not _decode_fast(data, out):
        out[:] = fit(read_image(data), out.shape[0], out.shape[2], upscale=True)


def _decode_fast(data: bytes, out: np.ndarray) -> bool:
    """Decode an upright JPEG of the right size; false if ``data`` is anything else."""
    shape = scan_jpeg(data)
    if shape is None or shape[:2] != out.shape[:2]:
        return False
    try:
        simplejpeg.decode_jpeg(data, "GRAY" if out.shape[2] == 1 else "RGB", buffer=out)
    except ValueError:  # Pillow decodes some of these
        return False
    return True


DECODERS: dict[str, Decoder] = {"jpg": _decode_jpg, "png": _decode_png, "npy": _decode_npy, "any": _decode_any}
"""The fastest decoder for each format of a data set."""
