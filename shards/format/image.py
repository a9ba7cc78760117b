"""Encoded bytes to pixels. Every command and the training stream decode images here, so that all see the same pixels.

The content decides the format, not the name. The result is upright and does not depend on alpha, palette or depth.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL import TiffImagePlugin as Tiff

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may open anywhere in this project. Its other formats include EPS, which starts Ghostscript."""

MAX_BYTES = 1 << 30  # of an encoded image, as it is read into memory
MAX_PIXELS = 178_956_970
"""Larger images are refused from their header. Pillow's own limit: decoding takes up to 20 bytes a pixel, or 3.5 GB."""

unpack_frame = struct.Struct(">HHB").unpack_from
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # markers of the segment with the size of a JPEG
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # keys of Pillow's ``info``
TURNED = re.compile(
    b'tiff:Orientation(="|>)[2-8]'  # in XMP
    b"|\x12\x01(?!\x03\0\x01\0\0\0\x01\0)[\x01-\r]\0"  # in little-endian EXIF: the tag, a type, and not one short 1
    b"|\x01\x12(?!\0\x03\0\0\0\x01\0\x01)\0[\x01-\r]"
)
"""Found in a segment of a JPEG if its image may have to be turned."""
UNDEFINED = "whose black and white are not defined; convert it to 8 or 16 bits"


def read_image(data: bytes) -> Image.Image:
    """Decode ``data``: upright, of any size and mode; the first frame of an animation.

    Raises ``ValueError`` if it is not in :data:`FORMATS` or ``.npy``, is broken, or larger than :data:`MAX_PIXELS`.
    """
    shape = scan_jpeg(data)
    if shape and shape[0] * shape[1] <= MAX_PIXELS:
        with suppress(ValueError):  # simplejpeg rejects some files that Pillow decodes
            pixels = simplejpeg.decode_jpeg(data, "GRAY" if shape[2] == 1 else "RGB")  # as Pillow's, in 0.7 of the time
            return Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels)
    with _only_value_errors():
        image = _open(data)
        image.load()
        if ORIENTED & image.info.keys():
            with suppress(Exception):  # the pixels of an image with broken EXIF are often whole
                ImageOps.exif_transpose(image, in_place=True)
        return _scale_tiff(image) if isinstance(image, Tiff.TiffImageFile) else image


def read_header(data: bytes) -> tuple[str, tuple[int, int], bool]:
    """Format (``jpg``, ``png``, ``npy``, ...), width and height, and whether it is grey, without decoding.

    Raises ``ValueError`` as :func:`read_image`. The sides of a turned image may be swapped.
    """
    with _only_value_errors(), _open(data) as image:
        name = {"JPEG": "jpg", "MPO": "jpg", None: "npy"}.get(image.format) or str(image.format).lower()
        return name, image.size, image.mode.startswith(("1", "I")) or image.mode in ("L", "LA")


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in the mode ``L`` or ``RGB``: transparent pixels become white, 16-bit grey is scaled to 8 bits.

    Raises ``ValueError`` for pixels in floating point or beyond 16 bits.
    """
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError(f"has floating-point pixels, {UNDEFINED}")
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255 instead of scaling
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"has pixels from {grey.min()} to {grey.max()}, {UNDEFINED}")
        if "transparency" in image.info:
            grey = np.where(grey == image.info["transparency"], 65535, grey)
        return Image.fromarray(_to_8_bits(grey)).convert(mode)
    if image.has_transparency_data:  # the colours of transparent pixels are often noise
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


_last_scan: list[tuple[bytes, tuple[int, int, int] | None]] = [(b"\0", None)]
"""One entry: the start of an image up to its pixels, which decides the result, and the result."""


def scan_jpeg(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels (1 or 3) of an upright JPEG, from the segments before its pixels.

    None if ``data`` is anything else, CMYK for example, or may be: Pillow decides then. Takes 2 us, or 0.2 us if the
    segments are those of the last image, as in shards that were built.
    """
    header, known = _last_scan[0]
    if data.startswith(header):
        return known
    place, shape = 2, (0, 0, 0)
    try:
        if data[0] != 0xFF or data[1] != 0xD8:
            return None
        while (marker := data[place + 1]) != 0xDA and data[place] == 0xFF:  # the pixels follow
            after = place + 2 + (data[place + 2] << 8 | data[place + 3])
            if marker == 0xE1 and TURNED.search(data, place + 4, after):
                return None
            if marker in FRAMES:
                shape = unpack_frame(data, place + 5)
            place = after if marker != 0xFF else place + 1  # any number of 0xFF may stand before a marker
    except (IndexError, struct.error):
        return None
    result = shape if shape[2] in (1, 3) else None
    _last_scan[0] = (data[: place + 2], result)
    return result


def _open(data: bytes) -> Image.Image:
    array = data[:6] == np.lib.format.MAGIC_PREFIX
    image = Image.fromarray(_read_array(data)) if array else Image.open(io.BytesIO(data), formats=FORMATS)
    sizes = [image.size]
    if isinstance(image, Tiff.TiffImageFile):  # its tiles may be larger than itself
        sizes.append((image.tag_v2.get(Tiff.TILEWIDTH, 0), image.tag_v2.get(Tiff.TILELENGTH, 0)))
    for width, height in sizes:
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
    if image.format == "PNG" and "transparency" in image.info:
        _scale_transparency(image, depth=data[24])
    return image


def _scale_transparency(image: Image.Image, depth: int) -> None:
    """Pillow leaves the transparent colour of a PNG in the file's bits per channel, and scales the pixels to 8."""
    value = image.info["transparency"]
    if image.mode == "L" and value < 1 << depth:
        image.info["transparency"] = value * 255 // ((1 << depth) - 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(channel >> 8 for channel in value)


def _scale_tiff(image: Tiff.TiffImageFile) -> Image.Image:
    """Pillow leaves grey of more than 8 bits as it is in the file: of 12 bits perhaps, or with 0 for white."""
    if not image.mode.startswith("I;16"):
        return image
    tags = image.tag_v2
    values = np.asarray(image, np.uint32) * 65535 // ((1 << tags[Tiff.BITSPERSAMPLE][0]) - 1)
    white_is_zero = tags.get(Tiff.PHOTOMETRIC_INTERPRETATION, 0) == 0
    return Image.fromarray((65535 - values if white_is_zero else values).astype(np.uint16))


def _read_array(data: bytes) -> np.ndarray:
    """The pixels in a ``.npy``: (height, width) or with 1 to 4 channels, of 8 bits. Nothing is unpickled."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if len(shape) not in (2, 3) or 0 in shape or shape[2:] > (4,):
        raise ValueError(f"an array of the shape {shape} is not (height, width) with 1 to 4 channels")
    if dtype.kind == "f":
        raise ValueError(f"has floating-point pixels, {UNDEFINED}")
    if dtype.kind not in "bu" or dtype.itemsize > 2:
        raise ValueError(f"has pixels of the type {dtype}, {UNDEFINED}")
    array = np.ndarray(shape, dtype, data, file.tell(), order="F" if fortran else "C")  # raises if data are missing
    array = array[:, :, 0] if shape[2:] == (1,) else array
    return _to_8_bits(array) if dtype.itemsize == 2 else array


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return np.asarray((values.astype(np.uint32) + 128) // 257, np.uint8)


@contextmanager
def _only_value_errors() -> Iterator[None]:
    """Pillow raises many types on malformed bytes, and warns of what concerns nobody here, such as broken EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UnidentifiedImageError as error:  # its message shows the address of a BytesIO
            raise ValueError("not an image in any known format") from error
        except Exception as error:
            raise ValueError(str(error) or type(error).__name__) from error
