"""The classifier of the data set's labels tells digits apart, and sees which classes are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shards.building.build import build
from shards.building.recipe import Options
from shards.check.index_tars import index_tars
from shards.common.errors import InputError
from shards.loading.dataset import ShardDataset
from shards.sources.mnist import Mnist
from shards.storage.cache import BlockCache
from shards.storage.locate import CacheOptions
from tests.shards.loading.test_labels import relabel
from tests.support.make import make_shards
from trainer.evaluate import classifier
from trainer.evaluate.classifier import WIDTH, load_classifier
from trainer.evaluate.measures import create_measure

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    out = tmp_path_factory.mktemp("digits") / "shards"
    build(Mnist(real_data / "mnist"), out, Options(size=32, limit=4000))
    return ShardDataset(out)


def test_digits_are_told_apart_and_the_classifier_is_kept(
    digits: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = BlockCache(tmp_path / "cache", 2**20)
    monkeypatch.setattr(classifier, "TRAINED_ON", 3000)
    digits.reader.labels_at(0, 1)  # which says how far it is
    capsys.readouterr()
    network = load_classifier(digits, cache)
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == "Training a classifier of the labels on 3,000 images."
    assert last.startswith("classifier: 9,000 of 9,000 images")
    images = digits.__getitems__(range(3000, 4000)).images.permute(0, 3, 1, 2).float()
    found = network(images)[:, WIDTH:].argmax(1).numpy()
    assert (found == digits.reader.labels_at(3000, 1000)).mean() > 0.9
    monkeypatch.setattr(classifier, "_train", None)  # a second training would fail
    torch.testing.assert_close(load_classifier(digits, cache)(images), network(images))


def test_another_architecture_is_trained_once(
    digits: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the classifier of an earlier version is in the cache."""
    cache, train = BlockCache(tmp_path / "cache", 2**20), classifier._train
    trained = []

    def train_and_count(dataset: ShardDataset) -> classifier.Classifier:
        trained.append(classifier.WIDTH)
        return train(dataset)

    monkeypatch.setattr(classifier, "_train", train_and_count)
    monkeypatch.setattr(classifier, "EPOCHS", 0)
    for width in (64, 32, 32):
        monkeypatch.setattr(classifier, "WIDTH", width)
        assert load_classifier(digits, cache).features.out_features == width
    assert trained == [64, 32]


def test_a_classifier_of_other_numbers_is_another(tmp_path: Path) -> None:
    """A class-conditional run numbers the classes that occur, whatever numbers the tars hold."""
    make_shards(tmp_path / "tars", samples=3)
    relabel(tmp_path / "tars", 0, b"7")
    index_tars(str(tmp_path / "tars"), tmp_path / "index")
    cache = CacheOptions(tmp_path / "cache")
    stored, renumbered = (ShardDataset(tmp_path / "index", labels=labels, cache=cache) for labels in (False, True))
    assert renumbered.classes == ("1", "2", "7")
    assert classifier.name_classifier(stored) != classifier.name_classifier(renumbered)


def test_a_missing_class_is_seen(digits: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = BlockCache(tmp_path / "cache", 2**20)
    monkeypatch.setattr(classifier, "TRAINED_ON", 3000)
    measure = create_measure("labels", CPU, digits, cache)
    images = digits.__getitems__(range(2000)).images.permute(0, 3, 1, 2)
    labels = digits.reader.labels_at(0, 2000)
    real, fake = measure.describe(images[:1000]), measure.describe(images[1000:])
    healthy = measure.compare(real, fake)
    assert healthy["class-coverage"] > 0.9 and min(healthy[f"class-{digit}"] for digit in range(10)) > 0.06
    without = measure.compare(real, fake[labels[1000:] != 1])
    assert without["class-coverage"] < healthy["class-coverage"] and without["class-1"] < 0.02
    assert without["kd-labels"] > healthy["kd-labels"]


def test_agreement_is_the_share_of_images_of_the_class_asked_for(
    digits: ShardDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each class, too; where nothing was asked for, there is none."""
    monkeypatch.setattr(classifier, "TRAINED_ON", 3000)
    measure = create_measure("labels", CPU, digits, BlockCache(tmp_path / "cache", 2**20))
    rows = measure.describe(digits.__getitems__(range(1000)).images.permute(0, 3, 1, 2))
    asked = torch.from_numpy(digits.reader.labels_at(0, 1000))
    asked[asked == 4] = 9  # for which fours are given
    scores = measure.compare(rows, rows, asked=asked)
    nines, fours = ((digits.reader.labels_at(0, 1000) == digit).sum() for digit in (9, 4))
    assert scores["agreement-3"] > 0.85 and "agreement-4" not in scores
    assert scores["agreement-9"] == pytest.approx(nines / (nines + fours), abs=0.1)
    assert scores["agreement"] == pytest.approx(1 - fours / 1000, abs=0.06)
    assert not any(name.startswith("agreement") for name in measure.compare(rows, rows))


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", samples=1)
    with pytest.raises(InputError, match="All images have the same label"):
        load_classifier(ShardDataset(tmp_path / "shards"), None)
