"""Shares of hues, on drawn faces whose colours are known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hues import HUES, Arguments, benchmark, hue_shares, load_run_after, total_variation
from shards.common.errors import InputError
from shards.sources.faces import sample_face
from shards.sources.portrait import draw_face
from tests.support.launching import ROOT

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


def test_a_run_of_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="images of 32 px in 1 channels, not drawn faces at 64 px"):
        benchmark(Arguments(runs=(ROOT / "tests" / "fixtures" / "version-0.1" / "run",)))


def test_a_run_is_measured_after_the_images_asked_for() -> None:
    folder = ROOT / "tests" / "fixtures" / "version-0.1" / "run"
    assert load_run_after(12, folder).step == 3
    with pytest.raises(InputError, match=r"no checkpoint after 1,000 images\. It has checkpoints after 12\."):
        benchmark(Arguments(runs=(folder,), images=1000))


def test_total_variation_is_0_for_equal_shares_and_1_for_disjoint_ones() -> None:
    a, b = np.array([0.25, 0.75, 0, 0]), np.array([0, 0, 0.5, 0.5])
    assert total_variation(a, a) == 0
    assert total_variation(a, b) == 1
    assert total_variation(a, np.array([0.5, 0.5, 0, 0])) == 0.25
