"""Nearest real images: found exactly, and a generator that copies is seen."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.common.errors import InputError
from shards.loading.dataset import ShardDataset
from shards.loading.loader import normalise
from shards.loading.reader import Reader
from trainer.config import Config, Data, Model
from trainer.evaluate.evaluation import Evaluator
from trainer.explore import nearest
from trainer.explore.gallery import Gallery
from trainer.explore.nearest import Neighbours, Search, draw_nearest, find_neighbours, merge, typical_distance
from trainer.folder.load_run import LoadedRun
from trainer.gan.factory import create_networks

COPIED = 7
"""Position of the image that the generator copies."""


class Copier(torch.nn.Module):
    """Makes one image, whatever the latents."""

    z_dim = 4

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.image = torch.nn.Parameter(image)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.image.expand(len(latents), -1, -1, -1)


@pytest.fixture
def run(faces32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedRun:
    """A run on ``faces32``, whose images are compared as thumbnails."""

    def absent(_: object) -> None:
        raise InputError("not installed")

    monkeypatch.setattr(nearest, "create_lite0", absent)
    config = Config(data=Data(shards=str(faces32), cache=tmp_path / "cache"))
    networks = create_networks(Model(features_g=1, features_d=1), 32, 3)
    return LoadedRun(config, Path("step-1"), 1, 8, *networks, (3, 32), {}, "")


def copier(faces32: Path, *, mirrored: bool = False) -> Gallery:
    with closing(ShardDataset(faces32).reader):
        images = normalise(ShardDataset(faces32).__getitems__(range(COPIED, COPIED + 1)).images, torch.float64)
    return Gallery(Copier(images.flip(3) if mirrored else images), 0)  # type: ignore[arg-type]


def test_neighbours_are_those_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, reals = (torch.randn(count, 40, generator=generator) for count in (nearest.ROWS + 3, 50))
    reals[11] = queries[257] + 1e-5  # a product of matrices would lose it
    pairs = (queries[:, None] - reals).double().norm(dim=2)
    found = find_neighbours(queries, reals, 3)
    expected = pairs.sort(1)
    assert torch.equal(found.positions, expected.indices[:, :3])
    torch.testing.assert_close(found.distances.double(), expected.values[:, :3], rtol=1e-5, atol=1e-9)
    assert found.positions[257, 0] == 11 and 0 < found.distances[257, 0] < 1e-4


def test_the_typical_distance_is_that_to_another_image() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    assert typical_distance(find_neighbours(line, line, 2)) == 2  # of 1, 1, 2, 3, 4
    assert typical_distance(find_neighbours(torch.zeros(4, 3), torch.zeros(6, 3), 2)) == 0


def test_neighbours_in_stretches_are_those_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, reals = (torch.randn(count, 7, generator=generator) for count in (20, 50))
    search, whole = Search(queries, 6), find_neighbours(queries, reals, 6)
    for stretch in reals.split(4):  # fewer than are looked for
        search.add(stretch)
    assert torch.equal(search.neighbours.positions, whole.positions)
    torch.testing.assert_close(search.neighbours.distances, whole.distances)


def test_a_merged_image_is_there_once_at_its_smaller_distance() -> None:
    one = Neighbours(torch.tensor([[4, 2, 7]]), torch.tensor([[1.0, 3.0, 5.0]]))
    other = Neighbours(torch.tensor([[2, 9, 4]]), torch.tensor([[2.0, 4.0, 6.0]]))
    both = merge(one, other, 3)
    assert both.positions.tolist() == [[4, 2, 9]] and both.distances.tolist() == [[1.0, 2.0, 4.0]]


def test_keys_are_read_of_what_is_shown_only(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stretch of real images is in memory at a time, whose features are kept."""
    described, read, key = [], [], Reader._key

    def describe(evaluator: Evaluator, *arguments: Any) -> torch.Tensor | None:
        described.append(arguments[1])
        return describe_reals(evaluator, *arguments)

    def read_key(reader: Reader, sample: Any) -> str:
        read.append(sample)
        return key(reader, sample)

    describe_reals = Evaluator.describe_reals
    generator = create_networks(Model(kind="mlp", z_dim=4, features_g=2), 32, 3)[0].eval()
    monkeypatch.setattr(nearest, "COMPARED", 64)
    whole = draw_nearest(Gallery(generator, 0), run, 9, [3, 4], 2, 0, None).metadata
    monkeypatch.setattr(nearest, "STRETCH", 64)
    monkeypatch.setattr(Evaluator, "describe_reals", describe)
    monkeypatch.setattr(Reader, "_key", read_key)
    assert draw_nearest(Gallery(generator, 0), run, 9, [3, 4], 2, 0, None).metadata == whole
    assert described == [64, 64, 64, 8] and len(read) == 4


@pytest.mark.parametrize("flip", [False, True])
def test_a_copy_is_seen(faces32: Path, run: LoadedRun, flip: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a mirrored image, if the run mirrors its images."""
    run = replace(run, config=replace(run.config, data=replace(run.config.data, flip=flip)))
    for mirrored in (False, True):
        picture = draw_nearest(copier(faces32, mirrored=mirrored), run, 12, None, 2, 0, None)
        row = picture.metadata["neighbours"][0]
        assert (row["distances"][0] == 0) == (flip or not mirrored)
        assert picture.metadata["median_distance"]["real"] > 0
        if not mirrored and not flip:
            with closing((dataset := ShardDataset(faces32, keys=True)).reader):
                batch = dataset.__getitems__(range(COPIED, COPIED + 1))
            assert row["keys"][0] == batch.keys[0]
            tile = np.asarray(picture.tiles[0, 1])[:96:3, :96:3]
            assert np.array_equal(tile, batch.images[0].numpy())
    assert "compared as thumbnails of 16x16 pixels. For features: not installed" in capsys.readouterr().err
    assert len(picture.metadata["neighbours"]) == 8 and max(column for _, column in picture.tiles) == 2


def test_the_samples_shown_are_those_named_or_the_nearest(run: LoadedRun) -> None:
    generator = create_networks(Model(kind="mlp", z_dim=4, features_g=2), 32, 3)[0].eval()
    picture = draw_nearest(Gallery(generator, 0), run, 20, None, 1, 0, None)
    rows = picture.metadata["neighbours"]
    everything = draw_nearest(Gallery(generator, 0), run, 20, range(20), 1, 0, None).metadata["neighbours"]
    first = sorted(row["distances"][0] for row in everything)[:8]
    assert [row["distances"][0] for row in rows] == pytest.approx(first)
    named = draw_nearest(Gallery(generator, 0), run, 20, [5, 3], 1, 0, None).metadata["neighbours"]
    assert named == [everything[5], everything[3]]
    assert "Median distance to the nearest of 200 real images, in thumbnails features: " in picture.text


def test_what_cannot_be_compared(run: LoadedRun) -> None:
    with pytest.raises(InputError, match="--k is 50, of 50 real images"):
        draw_nearest(Gallery(run.generator, 0), run, 2, None, 50, 50, None)
    with pytest.raises(InputError, match="the run makes images of 64x64x3"):
        draw_nearest(Gallery(run.generator, 0), replace(run, shape=(3, 64)), 2, None, 1, 0, None)
