from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.sources import portrait
from shards.sources.faces import SMILING, Faces, attributes, sample_face
from shards.sources.portrait import Face, draw_face
from shards.sources.source import Source

WORD = st.integers(0, 2**64 - 1)
PLAIN = Face(
    man=True,
    smile=0.0,
    mouth_open=0.0,
    glasses=False,
    beard=False,
    skin=0.25,
    hair="black",
    hair_length=0.1,
    hair_style="swept",
    eyes="brown",
    brow_tilt=0.0,
    yaw=0.0,
    face_width=0.0,
    clothes="navy",
    background="sand",
)


def small(face: Face) -> npt.NDArray[np.int16]:
    """What a 64x64 data set shows of it: int16, so that differences do not wrap."""
    return np.asarray(draw_face(face).resize((64, 64), Image.Resampling.LANCZOS), np.int16)


def changed(a: Face, b: Face) -> npt.NDArray[np.bool_]:
    """The (64, 64) pixels that differ by more than 24 of 255 in some channel."""
    return np.asarray(np.abs(small(a) - small(b)).max(axis=2) > 24)


@settings(max_examples=25, deadline=None)
@given(WORD, WORD)
def test_a_face_is_a_pure_function_of_seed_and_index(seed: int, index: int) -> None:
    face = sample_face(seed, index)
    np.random.seed(0)
    sample_face(seed, index ^ 1)
    assert sample_face(seed, index) == face
    assert draw_face(sample_face(seed, index)).tobytes() == draw_face(face).tobytes()
    assert face not in (sample_face(seed, index ^ 1), sample_face(seed ^ 1, index))


def test_the_faces_do_not_change_between_versions() -> None:
    """Data that somebody trained on must come out of the same seed tomorrow."""
    values = attributes(sample_face(0, 12))
    assert (values["man"], values["hair"], values["hair_style"], values["eyes"]) == (1, "grey", "fringe", "brown")
    assert [values["smile"], values["skin"], values["yaw"]] == pytest.approx(
        [0.5373869559756932, 0.8456269144184553, 0.24356915860487227], abs=1e-12
    )


@pytest.mark.parametrize("pair", [(-1, 0), (0, -1), (2**64, 0), (0, 2**64)])
def test_words_that_do_not_fit_are_refused(pair: tuple[int, int]) -> None:
    with pytest.raises(OverflowError):
        sample_face(*pair)


@settings(max_examples=200, deadline=None)
@given(WORD, WORD)
def test_attributes_are_json_in_their_ranges(seed: int, index: int) -> None:
    face = sample_face(seed, index)
    values = attributes(face)
    assert json.loads(json.dumps(values)) == values
    assert set(values) == {field.name for field in fields(Face)} | {"woman", "smiling"}
    for name in ("man", "woman", "smiling", "glasses", "beard"):
        assert type(values[name]) is int and values[name] in (0, 1)
    assert values["man"] != values["woman"] and (face.man or not face.beard)
    assert values["smiling"] == (face.smile > SMILING) and abs(face.smile - SMILING) > 0.1
    assert all(-1.0 <= value <= 1.0 for value in (face.smile, face.brow_tilt, face.yaw, face.face_width))
    assert all(0.0 <= value <= 1.0 for value in (face.skin, face.mouth_open, face.hair_length))
    assert face.hair in portrait.HAIRS and face.eyes in portrait.EYES and face.hair_style in portrait.STYLES
    assert face.clothes in portrait.CLOTHES and face.background in portrait.BACKGROUNDS


def box(top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((64, 64), bool)
    mask[top:bottom, left:right] = True
    return mask


# What each attribute must do at 64x64: (field, other value, where, least pixels changed there).
EFFECTS: list[tuple[str, Any, npt.NDArray[np.bool_], int]] = [
    ("man", False, box(18, 64, 0, 64), 200),
    ("smile", 0.9, box(30, 52, 18, 46), 40),
    ("smile", -0.6, box(40, 52, 20, 44), 18),
    ("mouth_open", 0.9, box(40, 54, 20, 44), 40),
    ("glasses", True, box(23, 38, 11, 53), 120),
    ("beard", True, box(31, 58, 11, 53), 250),
    ("skin", 0.9, box(10, 64, 8, 56), 800),
    ("hair", "blond", box(3, 32, 9, 55), 300),
    ("hair_length", 0.9, box(1, 64, 4, 60), 400),
    ("hair_style", "fringe", box(3, 32, 9, 55), 110),
    ("hair_style", "parted", box(3, 32, 9, 55), 75),
    ("hair_style", "curly", box(1, 34, 9, 55), 90),
    ("eyes", "blue", box(27, 34, 19, 45), 18),
    ("brow_tilt", 1.0, box(20, 29, 15, 49), 40),
    ("yaw", 1.0, ~box(0, 3, 0, 64), 400),
    ("face_width", 1.0, box(2, 58, 8, 56), 120),
    ("clothes", "cream", box(53, 64, 0, 64), 150),
    ("background", "slate", ~box(16, 42, 16, 48), 1000),
]


def test_every_attribute_has_its_effect_listed() -> None:
    assert {field for field, *_ in EFFECTS} == {field.name for field in fields(Face)}


@pytest.mark.parametrize(("field", "value", "where", "least"), EFFECTS)
def test_an_attribute_shows_where_it_should_and_nowhere_else(
    field: str, value: Any, where: npt.NDArray[np.bool_], least: int
) -> None:
    difference = changed(PLAIN, replace(PLAIN, **{field: value}))
    assert difference[where].sum() >= least
    assert difference[~where].sum() <= 2


def test_teeth_show_in_an_open_mouth_only() -> None:
    def white(mouth_open: float) -> int:
        return int((small(replace(PLAIN, mouth_open=mouth_open))[40:54, 20:44].min(axis=2) > 220).sum())

    assert white(0.0) == 0
    assert white(0.9) >= 10


def test_long_hair_falls_over_the_ears() -> None:
    def dark(face: Face) -> int:
        return int((small(face)[30:38, 11:15].max(axis=2) < 80).sum())

    assert dark(PLAIN) <= 4
    assert dark(replace(PLAIN, hair_length=0.9)) >= 24


def test_a_stern_brow_points_down_at_the_nose() -> None:
    stern, worried = (small(replace(PLAIN, brow_tilt=tilt))[20:29, 17:47].sum(axis=2) for tilt in (1.0, -1.0))
    darkest_row = (stern - worried).argmin(axis=0)
    assert darkest_row[10] > darkest_row[3] and darkest_row[19] > darkest_row[26]


@pytest.mark.parametrize("yaw", [-1.0, -0.5, 0.5, 1.0])
def test_eyes_stay_aligned_and_follow_the_turn(yaw: float) -> None:
    def middle(yaw: float) -> tuple[float, float]:
        face = replace(PLAIN, yaw=yaw)
        rows, columns = np.nonzero(changed(face, replace(face, eyes="blue")))
        return float(rows.mean()), float(columns.mean())

    (row, column), (row_ahead, column_ahead) = middle(yaw), middle(0.0)
    assert abs(row - row_ahead) < 0.5
    assert 0.5 < np.sign(yaw) * (column - column_ahead) < 4.0


def test_marginals_are_balanced_and_arithmetic_has_material() -> None:
    drawn = [sample_face(0, index) for index in range(600)]
    values = [attributes(face) for face in drawn]

    def share(name: str) -> float:
        return float(np.mean([fact[name] for fact in values]))

    assert 0.4 < share("smiling") < 0.6
    assert 0.4 < share("man") < 0.6
    assert 0.2 < share("glasses") < 0.4
    assert 0.1 < share("beard") < 0.3
    assert min(Counter((face.man, face.smile > SMILING, face.glasses) for face in drawn).values()) > 20
    length = {man: np.mean([face.hair_length for face in drawn if face.man is man]) for man in (True, False)}
    assert length[False] > length[True] + 0.3
    for name, palette in (("hair", portrait.HAIRS), ("eyes", portrait.EYES), ("hair_style", portrait.STYLES)):
        counts = Counter(fact[name] for fact in values)
        assert set(counts) == set(palette) and min(counts.values()) > 30


@pytest.mark.parametrize("canvas", [64, 192, 256])
def test_portraits_are_square_rgb(canvas: int) -> None:
    image = draw_face(PLAIN, canvas)
    assert (image.mode, image.size) == ("RGB", (canvas, canvas))


def test_canvas_size_changes_the_sharpness_only() -> None:
    large = np.asarray(draw_face(PLAIN, 512).resize((64, 64), Image.Resampling.LANCZOS), np.int16)
    assert np.abs(large - small(PLAIN)).mean() < 3.0


def test_the_source_reads_any_item_on_its_own() -> None:
    source: Source = Faces(count=3, seed=7)
    last = source[2]
    everything = [source[index] for index in range(len(source))]
    assert last.image.tobytes() == everything[2].image.tobytes()
    assert (last.image.mode, last.image.size, last.label) == ("RGB", (256, 256), None)
    assert last.origin == "faces/seed-7/000002"
    assert last.attributes == attributes(sample_face(7, 2))
    assert len({item.image.tobytes() for item in everything}) == len({item.origin for item in everything}) == 3
    assert pickle.loads(pickle.dumps(source)) == source
    assert (source.name, source.channels, source.upscale, source.format) == ("faces", 3, False, "jpg")


@pytest.mark.parametrize("index", [-1, 3])
def test_the_source_ends(index: int) -> None:
    with pytest.raises(IndexError, match=f"face {index} of a set of 3"):
        Faces(count=3)[index]
