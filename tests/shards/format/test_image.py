"""Images as other people have them: by every route the same, right pixels, or ``ValueError``."""

from __future__ import annotations

import ast
import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from shards.format.codec import DECODERS, fit
from shards.format.image import read_header, read_image, scan_jpeg
from tests.support.launching import ROOT

SIDE = 32
RGB = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).resize((SIDE, SIDE)))
GREY = RGB[:, :, 0]
COVER = np.where(np.indices((SIDE, SIDE)).sum(0) % 3 > 0, 255, 0).astype(np.uint8)  # alpha of a transparent pattern
SHOWN = np.where(COVER[:, :, None] > 0, RGB, 255)
SHOWN_GREY = np.where(COVER > 0, GREY, 255)


def save(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format, **options)
    return file.getvalue()


def npy(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)  # type: ignore[arg-type]
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, depth: int, colour: int, *chunks: bytes, size: tuple[int, int] = (SIDE, SIDE)) -> bytes:
    """A PNG of any depth, which Pillow does not write: ``pixels`` has a row of packed bytes per line."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    data = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data


def packed(values: np.ndarray, depth: int) -> np.ndarray:
    shifts = [values[:, place :: 8 // depth] << (8 - depth * (place + 1)) for place in range(8 // depth)]
    return np.bitwise_or.reduce(shifts).astype(np.uint8)


def deep(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.uint16) * 257


def rows_of_16_bits(pixels: np.ndarray) -> np.ndarray:
    return deep(pixels).astype(">u2").reshape(SIDE, -1)


def with_tag(tiff: bytes, tag: int, value: int, name: int = 0) -> bytes:
    """Replace the value of a tag, and its name."""
    start = max(tiff.rfind(struct.pack("<HHI", tag, kind, 1)) for kind in (3, 4))
    return tiff[:start] + struct.pack("<HHII", name or tag, 4, 1, value) + tiff[start + 12 :]


def of_12_bits(pixels: np.ndarray) -> bytes:
    """A TIFF, whose pixels are its end."""
    pairs = (pixels.astype(np.uint32) * 4095 // 255).reshape(-1, 2) @ np.array([1 << 12, 1], np.uint32)
    data = pairs.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    return with_tag(save(deep(pixels), "tiff"), 258, 12)[: -2 * pixels.size] + data + bytes(pixels.size // 2)


def tiled(tiff: bytes, side: int) -> bytes:
    """A TIFF of one strip as one of one tile."""
    for tag, value, name in ((273, 122, 324), (279, SIDE * SIDE, 325), (284, side, 322), (278, side, 323)):
        tiff = with_tag(tiff, tag, value, name)
    return tiff


def decode_all(data: bytes, channels: int) -> list[np.ndarray]:
    """By ``build`` and by a stream of each format."""
    decoded = [fit(read_image(data), SIDE, channels)]
    for format in ("any", "png", "jpg"):
        out = np.full((SIDE, SIDE, channels), 7, np.uint8)
        DECODERS[format](data, out)
        decoded.append(out)
    return decoded


ALPHA, GREY_ALPHA = np.dstack([RGB, COVER]), np.dstack([GREY, COVER])
TWO_BITS = GREY >> 6
PALETTE = np.random.default_rng(1).integers(0, 255, (16, 3), np.uint8)
COLOUR = chunk(b"PLTE", PALETTE.tobytes())
LOSSLESS = {"lossless": True}

IMAGES = {
    "PNG": (save(RGB, "png"), RGB),
    "a palette of 4 bits": (png(packed(GREY >> 4, 4), 4, 3, COLOUR), PALETTE[GREY >> 4]),
    "a palette of 2 bits": (png(packed(TWO_BITS, 2), 2, 3, COLOUR), PALETTE[TWO_BITS]),
    "a palette with a transparent colour": (
        png(packed(TWO_BITS, 2), 2, 3, COLOUR, chunk(b"tRNS", b"\xff\0")),
        np.where(TWO_BITS[:, :, None] == 1, 255, PALETTE[TWO_BITS]),
    ),
    "1 bit": (save(Image.fromarray(COVER > 0), "png"), COVER),
    "2 bits": (png(packed(TWO_BITS, 2), 2, 0), TWO_BITS * 85),
    "2 bits with a transparent grey": (
        png(packed(TWO_BITS, 2), 2, 0, chunk(b"tRNS", b"\0\1")),
        np.where(TWO_BITS == 1, 255, TWO_BITS * 85),
    ),
    "16 bits": (save(deep(GREY), "png"), GREY),
    "16 bits with a transparent grey": (
        png(rows_of_16_bits(SHOWN_GREY * (COVER > 0)), 16, 0, chunk(b"tRNS", b"\0\0")),
        np.where((COVER == 0) | (GREY == 0), 255, GREY),
    ),
    "16 bits in TIFF": (save(deep(GREY), "tiff"), GREY),
    "12 bits in TIFF": (of_12_bits(GREY), GREY),
    "16 bits in TIFF with 0 for white": (with_tag(save(deep(255 - GREY), "tiff"), 262, 0), GREY),
    "a tile in TIFF": (tiled(save(GREY, "tiff"), SIDE), GREY),
    "16 bits in PGM": (b"P5 32 32 65535\n" + deep(GREY).astype(">u2").tobytes(), GREY),
    "32 bits in TIFF": (save(deep(GREY).astype(np.int32), "tiff"), GREY),
    "16 bits of colour": (png(rows_of_16_bits(RGB), 16, 2), RGB),
    "16 bits with a transparent colour": (
        png(rows_of_16_bits(RGB), 16, 2, chunk(b"tRNS", deep(RGB[0, 0]).astype(">u2").tobytes())),
        np.where((RGB[0, 0] == RGB).all(2, keepdims=True), 255, RGB),
    ),
    "16 bits with alpha": (png(rows_of_16_bits(ALPHA), 16, 6), SHOWN),
    "alpha": (save(ALPHA, "png"), SHOWN),
    "alpha in WebP": (save(ALPHA, "webp", **LOSSLESS), SHOWN),
    "alpha in TIFF": (save(ALPHA, "tiff"), SHOWN),
    "grey with alpha": (save(GREY_ALPHA, "png"), SHOWN_GREY),
    "BMP": (save(RGB, "bmp"), RGB),
    "PPM": (save(RGB, "ppm"), RGB),
    "JPEG 2000": (save(RGB, "jpeg2000"), RGB),
    **{f"an animated {format}": (save(RGB, format, save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))],
                                      **(LOSSLESS if format == "webp" else {})), RGB)
       for format in ("png", "webp", "tiff")},
    "an array": (npy(RGB), RGB),
    "a grey array": (npy(GREY), GREY),
    "a grey array with an axis": (npy(GREY[:, :, None]), GREY),
    "an array with alpha": (npy(ALPHA), SHOWN),
    "an array in Fortran's order": (npy(np.asfortranarray(RGB)), RGB),
    "an array of version 2": (npy(RGB, version=(2, 0)), RGB),
    "an array of version 3": (npy(RGB, version=(3, 0)), RGB),
    "an array of 16 bits": (npy(deep(RGB)), RGB),
    "a big-endian array of 16 bits": (npy(deep(GREY).astype(">u2")), GREY),
    "an array of truth values": (npy(COVER > 0), COVER),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", IMAGES)
def test_every_route_gives_the_right_pixels(name: str) -> None:
    data, expected = IMAGES[name]
    colour = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    for pixels in decode_all(data, 3):
        assert np.array_equal(pixels, colour)
    grey = np.asarray(Image.fromarray(colour.astype(np.uint8)).convert("L"))
    for pixels in decode_all(data, 1):
        assert np.abs(pixels[:, :, 0].astype(int) - grey).max() <= 1


UNDO = {2: np.s_[:, ::-1], 3: np.s_[::-1, ::-1], 4: np.s_[::-1]}
TURNED = {
    **{orientation: RGB[place] for orientation, place in UNDO.items()},
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, 1),
    7: np.rot90(RGB, 2).transpose(1, 0, 2),
    8: np.rot90(RGB, -1),
}
"""What a camera stores with each orientation, for the upright ``RGB``."""


@pytest.mark.parametrize("orientation", TURNED)
def test_every_orientation_is_turned_upright_by_every_route(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    stored = np.ascontiguousarray(TURNED[orientation])
    full = {"quality": 100, "subsampling": 0}
    for format, options in [("png", {}), ("tiff", {}), ("webp", LOSSLESS), ("jpeg", full), ("mpo", full)]:
        for metadata in ({"exif": exif}, {"xmp": xmp}):
            if (format, *metadata) in {("png", "xmp"), ("tiff", "xmp"), ("mpo", "xmp")}:
                continue  # Pillow does not write these
            for pixels in decode_all(save(stored, format, **options, **metadata), 3):
                assert np.abs(pixels.astype(int) - RGB).max() <= (3 if format in ("jpeg", "mpo") else 0)


def test_broken_exif_does_not_cost_the_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(RGB, "jpeg", quality=100, subsampling=0, exif=exif)
    start = data.index(b"Exif\0\0") + 6
    for garbage in (b"XX\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xff", bytes(8), b"II*\0\x08\0\0\0"):
        for pixels in decode_all(data[:start] + garbage + data[start + 8 :], 3):
            assert np.abs(pixels.astype(int) - RGB).max() <= 3


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_all_colours_are_read_in_grey_and_colour(mode: str) -> None:
    stored = Image.fromarray(RGB).convert(mode)
    shown = np.asarray(stored.convert("RGB"))
    for options in ({"subsampling": 0}, {"subsampling": 0, "progressive": True}):
        data = save(stored, "jpeg", quality=100, **options)
        assert read_header(data) == ("jpg", (SIDE, SIDE), mode == "L")
        for channels in (1, 3):
            expected = shown if channels == 3 else np.asarray(stored.convert("L"))[:, :, None]
            for pixels in decode_all(data, channels):
                assert np.abs(pixels.astype(int) - expected).max() <= 4


def claiming(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = bytearray(save(RGB, "jpeg"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


GOOD = npy(RGB)
BOMB = zlib.compress(bytes(40 << 20))
LINES = RGB.reshape(SIDE, -1)
BROKEN = {
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html>404 Not Found</html>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n",
    "an icon": save(RGB, "ico"),
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(100),
    "the start of a JPEG": save(RGB, "jpeg")[:200],
    "half a PNG": save(RGB, "png")[:300],
    "half a TIFF": save(RGB, "tiff")[:300],
    "floats in TIFF": save(GREY.astype(np.float32), "tiff"),
    "32 bits in TIFF": save(deep(GREY).astype(np.int32) + 1, "tiff"),
    "negative numbers in TIFF": save(deep(GREY).astype(np.int32) - 1, "tiff"),
    "a large tile": tiled(save(GREY, "tiff"), 20_000),
    "a large PNG": png(LINES, 8, 2, size=(20_000, 20_000)),
    "a large PNG of 1 bit": png(LINES, 1, 0, size=(60_000, 60_000)),
    "a large JPEG": claiming(14_000, 14_000),
    "a larger JPEG": claiming(65_500, 65_500),
    "a large GIF": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\0;",
    "a large BMP": b"BM" + struct.pack("<IHHIIiiHH24x", 54, 0, 0, 54, 40, 30_000, 30_000, 1, 24),
    "much text": png(LINES, 8, 2, chunk(b"zTXt", b"k\0\0" + BOMB)),
    "a profile of 40 MB": png(LINES, 8, 2, chunk(b"iCCP", b"k\0\0" + BOMB)),
    "a short array": GOOD[:-1],
    "an array with a large shape": GOOD.replace(b"(32, 32, 3), }      ", b"(99999, 99999, 3), }"),
    "an array with a huge shape": GOOD.replace(b"(32, 32, 3), }     ", b"(9999999, 99, 9), }"),
    "an array of channels first": npy(RGB.transpose(2, 0, 1)),
    "an array of five channels": npy(np.zeros((SIDE, SIDE, 5), np.uint8)),
    "an array of four axes": npy(RGB[None]),
    "a list of numbers": npy(np.arange(10, dtype=np.uint8)),
    "an array without pixels": npy(np.zeros((0, 0, 3), np.uint8)),
    "floats": npy(RGB / 255),
    "numbers of 32 bits": npy(RGB.astype(np.int32)),
    "objects": npy(np.array([[{}]], object), allow_pickle=True),
    "a structured array": npy(np.zeros((SIDE, SIDE), [("a", "u1"), ("b", "u1")])),
    "the name of an array": GOOD[:6],
    "a long header": GOOD[:8] + b"\xff\xff" + GOOD[10:],
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_an_error_that_allocates_little(name: str) -> None:
    tracemalloc.start()
    try:
        for channels in (1, 3):
            for format in ("any", "png", "jpg"):
                with pytest.raises(ValueError, match="pixels" if name.startswith("a large") else r"\w"):
                    DECODERS[format](BROKEN[name], np.empty((SIDE, SIDE, channels), np.uint8))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_any_flipped_bit_of_an_arrays_header_is_an_error_or_harmless() -> None:
    out, refused = np.empty((SIDE, SIDE, 3), np.uint8), 0
    for place in range(len(GOOD) - RGB.nbytes):
        for bit in (0, 5):
            data = bytearray(GOOD)
            data[place] ^= 1 << bit
            for decode in (DECODERS["any"], DECODERS["npy"]):
                try:
                    decode(bytes(data), out)
                except ValueError:
                    refused += 1
    assert refused > 100


def test_no_command_lets_pillow_choose_among_all_its_formats() -> None:
    for folder in ("trainer", "shards", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                    assert "formats=" in ast.unparse(node), path


def test_the_scan_of_a_jpeg_does_not_depend_on_those_before() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = Image.new("L", (SIDE, SIDE), 90)
    colour = grey.convert("RGB")
    plain = save(colour, "jpeg")
    jpegs = {
        plain: (SIDE, SIDE, 3),
        save(Image.new("RGB", (SIDE, SIDE), "red"), "jpeg"): (SIDE, SIDE, 3),  # of the same header
        save(colour.resize((SIDE, 2 * SIDE)), "jpeg"): (2 * SIDE, SIDE, 3),
        save(grey, "jpeg"): (SIDE, SIDE, 1),
        save(colour, "jpeg", exif=exif): None,
        save(colour.convert("CMYK"), "jpeg"): None,
        plain[: plain.index(b"\xff\xda")]: None,
        plain[:20] + plain[21:]: None,
        b"": None,
        save(colour, "png"): None,
    }
    for first, second in itertools.product(jpegs, repeat=2):
        assert (scan_jpeg(first), scan_jpeg(second), scan_jpeg(first)) == (jpegs[first], jpegs[second], jpegs[first])
