"""Raw bytes to pixels, as every source decodes them and every build resizes them."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.common.errors import InputError
from shards.format.codec import fit
from shards.sources.faces import Faces
from shards.sources.folder import Folder
from shards.sources.source import BadImage, digest_names, read_image

RED = (200, 30, 60)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_keeps_its_grey(mode: str, channels: int) -> None:
    level = 255 if mode == "1" else 90
    if mode.startswith("I"):
        deep = np.full((40, 40), level * 257, np.uint16 if mode == "I;16" else np.int32)
        image = Image.fromarray(deep)
    else:
        image = Image.new("L", (40, 40), level).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    pixels = fit(image, 32, channels)
    assert pixels.shape == (32, 32, channels)
    assert np.abs(pixels.astype(int) - level).max() <= 1


def test_transparency_is_laid_on_white() -> None:
    layer = Image.new("RGBA", (64, 32), (0, 0, 0, 0))
    layer.paste((*RED, 255), (0, 0, 32, 32))
    palette = Image.new("P", (64, 32), 1)
    palette.putpalette([*RED, 7, 7, 7])
    palette.paste(0, (0, 0, 32, 32))
    palette.info["transparency"] = 1
    for data in (encoded(layer, "png"), encoded(layer, "webp", lossless=True), encoded(palette, "png")):
        image = read_image(data, "x")
        both = np.concatenate([fit(image.crop((x, 0, x + 32, 32)), 32, 3) for x in (0, 32)], axis=1)
        assert (both[:, :32] == RED).all()
        assert (both[:, 32:] == 255).all()


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (60, 40), "black")
    image.paste(RED, (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise: left becomes top
    upright = read_image(encoded(image, "jpeg", exif=exif, quality=95), "x")
    assert upright.size == (40, 60)
    assert upright.getpixel((20, 10)) != upright.getpixel((20, 50)) == (0, 0, 0)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, (0, 255, 0))]
    data = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (fit(read_image(data, "x"), 32, 3) == RED).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_decode_as_pillow_decodes_them(mode: str, options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), "jpeg", **options)
    with Image.open(io.BytesIO(data)) as expected:
        assert np.array_equal(np.asarray(read_image(data, "x")), np.asarray(expected))


def test_bytes_that_are_no_image(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    jpeg, png = encoded(Image.fromarray(noise), "jpeg"), encoded(Image.fromarray(noise), "png")
    for data, reason in [
        (b"", "cannot be decoded: not an image"),
        (b"hello, I am a text", "cannot be decoded: not an image"),
        (b"\xff\xd8 hello", "cannot be decoded: not an image"),
        (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        (png[: len(png) // 2], "cannot be decoded"),
    ]:
        (tmp_path / "x.jpg").write_bytes(data)
        with pytest.raises(BadImage, match=rf"x\.jpg {reason}"):
            Folder(tmp_path)[0]


def test_pixels_without_a_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        fit(Image.new("F", (40, 40)), 32, 3)


def test_picked_items_are_those_of_the_source_until_it_changes() -> None:
    items = pickle.loads(pickle.dumps(Faces(5).pick(np.array([3, 1]))))
    assert len(items) == 2
    assert [items[0].origin, items[1].origin] == ["faces/seed-0/000003", "faces/seed-0/000001"]
    with pytest.raises(InputError, match="raw images changed during the build: 6 before, 5 now"):
        replace(items, count=6)[0]


def test_a_digest_depends_on_all_names_and_their_places() -> None:
    many = [f"{number:06d}.jpg" for number in range(70_000)]
    lists = [
        ([],), ([], []), (["a", "b"],), (["b", "a"],), (["ab"],), (["a"], ["b"]), (["a", "b"], []), (["\udce9"],),
        (many,), (many[:-1],), ([*many[:-1], "x"],), (["x", *many[1:]],),
    ]  # fmt: skip
    assert len({digest_names(*names) for names in lists}) == len(lists)
    assert digest_names(many) == digest_names(iter(many))


def test_a_digest_is_the_same_in_every_process() -> None:
    """And in every version: an unfinished build remembers it."""
    assert digest_names(["a", "b"], ["c"]) == "3e159442f0973a698823488c3b36736f"
