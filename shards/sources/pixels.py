"""Raw bytes to pixels, whatever strangers put in the file."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

EXIF_REACH = 65536
"""An EXIF block, one segment of at most this size, comes first in a JPEG."""
PLAIN = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}


class BadImage(ValueError):
    """One raw image that cannot be used. ``reason`` continues a sentence that starts with ``origin``."""

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(f"{origin} {reason}")
        self.origin, self.reason = origin, reason


def read_image(data: bytes, origin: str) -> Image.Image:
    """Decode ``data``, upright, the first frame of an animation; any size and mode.

    Raises:
        BadImage: ``data`` is no image, or a broken one.
    """
    try:
        if data[:2] == b"\xff\xd8" and b"Exif\0" not in data[:EXIF_REACH]:
            return Image.fromarray(_plain_jpeg(data))
    except ValueError:
        pass  # simplejpeg is strict where Pillow forgives: Pillow has the last word
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise BadImage(origin, "is not an image in any format that Pillow can read") from error
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes: struct.error, IndexError, ...
        raise BadImage(origin, f"cannot be decoded ({error})") from error


def _plain_jpeg(data: bytes) -> np.ndarray:
    """uint8 (height, width, 3) or (height, width). Equal to Pillow's pixels, in 250 instead of 350 us for 178x218."""
    mode = PLAIN.get(simplejpeg.decode_jpeg_header(data)[2])
    if mode is None:
        raise ValueError("CMYK, whose conversion is Pillow's business")
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, mode)
    return pixels[:, :, 0] if mode == "GRAY" else pixels
