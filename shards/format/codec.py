"""Images to bytes and back: JPEG, PNG and raw ``.npy``."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from shards.format.resize import fit

JPEG_QUALITY = 95
"""With full colour resolution; 64x64 faces take about 4 kB and show no blocks that a discriminator could learn."""

NPY = np.lib.format.MAGIC_PREFIX + b"\1\0"
"""How a .npy file of version 1.0 begins; the length of its header follows in two bytes."""

JPEG = b"\xff\xd8\xff"

Decoder = Callable[[bytes, np.ndarray], None]
"""Decodes one image into a preallocated uint8 array (height, width, channels); ``ValueError`` if it does not fit."""


def encode(image: np.ndarray, format: str) -> bytes:
    """Encode one uint8 image (height, width, channels), channels 1 or 3. Equal images give equal bytes."""
    return _ENCODERS[format](image)


def decoder(format: str) -> Decoder:
    """The fastest decoder for ``format`` (``jpg``, ``png``, ``npy``, ``any``), looked up once rather than per image."""
    return _DECODERS[format]


def _encode_jpg(image: np.ndarray) -> bytes:
    grey = image.shape[2] == 1
    colours = ("GRAY", "Gray") if grey else ("RGB", "444")
    data: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality=JPEG_QUALITY, colorspace=colours[0], colorsubsampling=colours[1]
    )
    return data


def _encode_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "png", optimize=False)
    return file.getvalue()


def _encode_npy(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(image), allow_pickle=False)
    return file.getvalue()


def _decode_jpg(data: bytes, out: np.ndarray) -> None:
    # A buffer too large is filled in part without a word; the shape that comes back tells.
    _check(simplejpeg.decode_jpeg(data, "GRAY" if out.shape[2] == 1 else "RGB", buffer=out).shape, out)


def _decode_png(data: bytes, out: np.ndarray) -> None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("L" if out.shape[2] == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise ValueError("not an image in any format known here") from error
    except (OSError, SyntaxError) as error:  # Pillow's two ways of saying "broken"
        raise ValueError(str(error)) from error
    _check(pixels.shape, out)
    out[:] = pixels.reshape(out.shape)


def _decode_any(data: bytes, out: np.ndarray) -> None:
    """Whatever it is: the largest centred square, resized; a JPEG of the right size costs no more than it must."""
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
    except UnidentifiedImageError as error:
        raise ValueError("not an image in any format known here") from error
    except (OSError, SyntaxError, TypeError, EOFError) as error:  # TypeError: an array that is no image
        raise ValueError(str(error)) from error


def _decode_npy(data: bytes, out: np.ndarray) -> None:
    start = len(data) - out.nbytes
    if data[:8] != NPY or 10 + int.from_bytes(data[8:10], "little") != start:
        raise ValueError("not a .npy file of the expected size")
    out[:] = np.frombuffer(data, np.uint8, offset=start).reshape(out.shape)


def _check(found: tuple[int, ...], out: np.ndarray) -> None:
    if found[:2] != out.shape[:2]:
        raise ValueError(f"is {found[1]}x{found[0]}, expected {out.shape[1]}x{out.shape[0]}")


_ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {"jpg": _encode_jpg, "png": _encode_png, "npy": _encode_npy}
_DECODERS: dict[str, Decoder] = {"jpg": _decode_jpg, "png": _decode_png, "npy": _decode_npy, "any": _decode_any}
FORMATS = tuple(_ENCODERS)
