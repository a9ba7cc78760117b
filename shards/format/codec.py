"""Images to bytes and back: JPEG, PNG and raw ``.npy``; pictures of any size and mode to square uint8 arrays."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

JPEG_QUALITY = 95  # in full colour: 64x64 faces take about 4 kB and show no blocks that a discriminator could learn
FILTER = Image.Resampling.BICUBIC
"""Antialiased; clean-fid uses it too. Lanczos takes 1.7 times as long, and resizing is the slowest step of a build."""

NPY = np.lib.format.MAGIC_PREFIX + b"\1\0"  # start of a .npy file of version 1.0; two bytes of header length follow
JPEG = b"\xff\xd8\xff"

BROKEN = (OSError, SyntaxError, Image.DecompressionBombError)  # what Pillow raises for a broken image

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
    flat = _flatten(image, "L" if channels == 1 else "RGB")
    square = flat.resize((size, size), FILTER, box=(left, top, left + side, top + side))
    return np.asarray(square).reshape(size, size, channels)


def _flatten(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("has floating-point pixels, whose black and white are not defined; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255 instead of scaling
        grey = np.asarray(image).clip(0, 65535)
        return Image.fromarray((grey / 257.0 + 0.5).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:  # the colours of transparent pixels are often noise
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def _decode_jpg(data: bytes, out: np.ndarray) -> None:
    # simplejpeg fills a part of a buffer that is too large and reports it only by the shape that it returns.
    _check_size(simplejpeg.decode_jpeg(data, "GRAY" if out.shape[2] == 1 else "RGB", buffer=out).shape, out)


def _decode_png(data: bytes, out: np.ndarray) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("L" if out.shape[2] == 1 else "RGB"))
    except BROKEN as error:
        raise _decode_error(error) from error
    _check_size(pixels.shape, out)
    out[:] = pixels.reshape(out.shape)


def _decode_npy(data: bytes, out: np.ndarray) -> None:
    start = len(data) - out.nbytes
    if data[:8] != NPY or 10 + int.from_bytes(data[8:10], "little") != start:
        raise ValueError("not a .npy file of the expected size")
    out[:] = np.frombuffer(data, np.uint8, offset=start).reshape(out.shape)


def _decode_any(data: bytes, out: np.ndarray) -> None:
    """Decode and :func:`fit` an image of any encoding and size; a JPEG of the right size takes the fast path."""
    try:
        if data[:3] == JPEG and simplejpeg.decode_jpeg_header(data)[:2] == out.shape[:2]:
            return _decode_jpg(data, out)
        if data[:6] == np.lib.format.MAGIC_PREFIX:
            array = np.load(io.BytesIO(data), allow_pickle=False)
            image = Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
        else:
            image = Image.open(io.BytesIO(data))
        with image:
            out[:] = fit(image, out.shape[0], out.shape[2], upscale=True)
    except (*BROKEN, TypeError, EOFError) as error:  # TypeError: an array that is no image
        raise _decode_error(error) from error


def _decode_error(error: Exception) -> ValueError:
    unknown = isinstance(error, UnidentifiedImageError)  # its own message shows the address of a BytesIO
    return ValueError("not an image in any known format" if unknown else str(error))


def _check_size(shape: tuple[int, ...], out: np.ndarray) -> None:
    if shape[:2] != out.shape[:2]:
        raise ValueError(f"is {shape[1]}x{shape[0]}, expected {out.shape[1]}x{out.shape[0]}")


DECODERS: dict[str, Decoder] = {"jpg": _decode_jpg, "png": _decode_png, "npy": _decode_npy, "any": _decode_any}
"""The fastest decoder for each format of a data set."""
