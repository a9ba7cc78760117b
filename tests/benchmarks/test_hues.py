"""Shares of hues, on drawn faces whose colours are known."""

from __future__ import annotations

import colorsys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hues import FIRST, GREY, HUES, hue_shares, total_variation
from shards.sources.faces import sample_face
from shards.sources.portrait import draw_face

NAMES = {
    "backgrounds": {"sand": "yellow", "sky": "cyan", "mint": "green", "lilac": "blue", "slate": "blue"},
    "shirts": {"navy": "blue", "brick": "red", "teal": "cyan", "cream": "grey"},
}
FIELDS = {"backgrounds": "background", "shirts": "clothes"}


def test_the_colours_of_drawn_faces_are_recognised() -> None:
    faces = [sample_face(0, index) for index in range(60)]
    images = np.stack([np.asarray(draw_face(face).resize((64, 64))) for face in faces])
    for region, names in NAMES.items():
        expected = [names[getattr(face, FIELDS[region])] for face in faces]
        found = [HUES[hue_shares(image[None], region).argmax()] for image in images]
        right = np.mean([a == b for a, b in zip(expected, found, strict=True)])
        assert right == 1 if region == "backgrounds" else right > 0.85  # long hair hides some shirts


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3))
def test_an_image_of_one_colour_has_the_hue_of_colorsys(colour: list[int]) -> None:
    hue, saturation, _ = colorsys.rgb_to_hsv(*(value / 255 for value in colour))
    border = (hue * 360 - FIRST) % 60
    if abs(saturation - GREY) < 1e-6 or min(border, 60 - border) < 1e-6:
        return
    expected = "grey" if saturation <= GREY else HUES[int((hue * 360 - FIRST) % 360 // 60)]
    shares = hue_shares(np.full((2, 64, 64, 3), colour, np.uint8), "shirts")
    assert dict(zip(HUES, shares, strict=True))[expected] == 1


def test_total_variation_is_0_for_equal_shares_and_1_for_disjoint_ones() -> None:
    a, b = np.array([0.25, 0.75, 0, 0]), np.array([0, 0, 0.5, 0.5])
    assert total_variation(a, a) == 0
    assert total_variation(a, b) == 1
    assert total_variation(a, np.array([0.5, 0.5, 0, 0])) == 0.25
