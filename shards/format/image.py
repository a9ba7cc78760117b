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
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What Pillow may open anywhere in this project. Its other formats include EPS, which starts Ghostscript."""

MAX_PIXELS = 178_956_970
"""Larger images are refused from their header. Pillow's own limit: 537 MB in colour, and a few copies of that."""

ORIENTATION = 0x0112  # EXIF's tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each orientation upright."""

unpack_frame = struct.Struct(">HHB").unpack_from
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # markers of the segment with the size of a JPEG
ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # keys of Pillow's ``info``
FLOATS = "has floating-point pixels, whose black and white are not defined; convert it to 8 or 16 bits"
XMP_TURN = re.compile(rb'tiff:Orientation(="|>)[2-8]')


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
        turn = _turn(image)
        return image if turn is None else image.transpose(turn)


def read_header(data: bytes) -> tuple[str, tuple[int, int], bool]:
    """Format (``jpg``, ``png``, ``npy``, ...), width and height, and whether it is grey, without decoding.

    Raises ``ValueError`` as :func:`read_image`. The sides of a turned image may be swapped.
    """
    with _only_value_errors(), _open(data) as image:
        name = {"JPEG": "jpg", "MPO": "jpg", None: "npy"}.get(image.format) or str(image.format).lower()
        return name, image.size, image.mode.startswith(("1", "I")) or image.mode in ("L", "LA")


def flatten(image: Image.Image, mode: str) -> Image.Image:
    """``image`` in the mode ``L`` or ``RGB``: transparent pixels become white, 16-bit grey is scaled to 8 bits.

    Raises ``ValueError`` for floating-point pixels.
    """
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError(FLOATS)
    if image.mode.startswith("I"):  # Pillow's own conversion clips at 255 instead of scaling
        grey = np.asarray(image)
        if "transparency" in image.info:
            grey = np.where(grey == image.info["transparency"], 65535, grey)
        return Image.fromarray(_to_8_bits(grey.clip(0, 65535))).convert(mode)
    if image.has_transparency_data:  # the colours of transparent pixels are often noise
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert(mode)


def scan_jpeg(data: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels (1 or 3) of an upright JPEG, from the segments before its pixels, in 2 us.

    None if ``data`` is anything else, CMYK for example, or may be: Pillow decides then.
    """
    place, shape = 2, (0, 0, 0)
    try:
        if data[0] != 0xFF or data[1] != 0xD8:
            return None
        while (marker := data[place + 1]) != 0xDA and data[place] == 0xFF:  # the pixels follow
            after = place + 2 + (data[place + 2] << 8 | data[place + 3])
            if marker == 0xE1 and not _is_upright(data[place + 4 : after]):
                return None
            if marker in FRAMES:
                shape = unpack_frame(data, place + 5)
            place = after if marker != 0xFF else place + 1  # any number of 0xFF may stand before a marker
    except (IndexError, struct.error):
        return None
    return shape if shape[2] in (1, 3) else None


def _is_upright(segment: bytes) -> bool:
    """Whether a segment with EXIF or XMP certainly asks for no turn; 3 us, where Pillow's parser takes 14."""
    if segment[:6] != b"Exif\0\0":
        return not XMP_TURN.search(segment)
    order = ">" if segment[6:8] == b"MM" else "<"
    (start,) = struct.unpack_from(f"{order}I", segment, 10)
    (count,) = struct.unpack_from(f"{order}H", segment, 6 + start)
    entries = segment[8 + start : 8 + start + 12 * count]
    for tag, kind, _, value in struct.iter_unpack(f"{order}HHIH2x", entries[: len(entries) // 12 * 12]):
        if tag == ORIENTATION:
            return bool(kind == 3 and value not in TURNS)
    return True


def _turn(image: Image.Image) -> Image.Transpose | None:
    if ORIENTED & image.info.keys():
        with suppress(Exception):  # the pixels of an image with broken EXIF are often whole
            return TURNS.get(image.getexif().get(ORIENTATION, 1))
    return None


def _open(data: bytes) -> Image.Image:
    array = data[:6] == np.lib.format.MAGIC_PREFIX
    image = Image.fromarray(_read_array(data)) if array else Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}")
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


def _read_array(data: bytes) -> np.ndarray:
    """The pixels in a ``.npy``: (height, width) or with 1 to 4 channels, of 8 bits. Nothing is unpickled."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if len(shape) not in (2, 3) or 0 in shape or shape[2:] > (4,):
        raise ValueError(f"an array of the shape {shape} is not (height, width) with 1 to 4 channels")
    if dtype.kind == "f":
        raise ValueError(FLOATS)
    if dtype.kind not in "bu" or dtype.itemsize > 2:
        raise ValueError(f"pixels of the type {dtype} have no defined black and white; convert them to uint8 or uint16")
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
