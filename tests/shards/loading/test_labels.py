"""Each image comes with its own label, in any process and in any place of the stream."""

from __future__ import annotations

import pickle
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.check.index_tars import index_tars
from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from shards.loading import labels as module
from shards.loading.dataset import ShardDataset
from shards.loading.labels import digest_labels
from shards.loading.loader import batches
from shards.storage.locate import CacheOptions
from tests.support.make import key, make_one_broken, make_shards, numbers, reindex

SAMPLES = 50


@pytest.fixture
def cache(tmp_path: Path) -> CacheOptions:
    return CacheOptions(tmp_path / "cache")


def relabel(folder: Path, sample: int, label: bytes) -> None:
    """Replace the label of a sample in the tars of ``make_shards``."""
    tar = folder / f"shard-{sample // 20:05d}.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(f"{key(sample)}.cls".encode()) + 512
    data[at : at + 512] = label.ljust(512, b" ")
    data[at - 512 + 124 : at - 512 + 136] = b"%011o\0" % max(1, len(label))
    header = data[at - 512 : at]
    header[148:156] = b" " * 8
    data[at - 512 + 148 : at - 512 + 156] = b"%06o\0 " % sum(header)
    tar.write_bytes(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_travel_with_their_images(tmp_path: Path, cache: CacheOptions, workers: int) -> None:
    """Of any rank, over the border of an epoch; ``make_shards`` labels each sample with its number's last digit."""
    make_shards(tmp_path / "shards", samples=SAMPLES)
    dataset = ShardDataset(tmp_path / "shards", seed=3, lanes=7, flip=True, labels=True, cache=cache)
    assert dataset.classes == tuple("0123456789")
    stream = batches(dataset, position=30, batch_size=12, rank=1, ranks=2, workers=workers)
    with closing(stream):
        for number, batch in enumerate(islice(stream, 5)):
            assert batch.labels is not None and batch.labels.dtype == torch.int64
            assert batch.labels.tolist() == [sample % 10 for sample in numbers(batch.images)]
            assert np.array_equal(batch.labels, dataset.reader.labels_at(36 + 12 * number, 6))


def test_labels_come_only_if_asked_for(tmp_path: Path) -> None:
    make_shards(tmp_path)
    dataset = ShardDataset(tmp_path)
    assert dataset[0].labels is None and dataset.classes == ()


def test_a_replaced_sample_has_the_label_of_its_replacement(tmp_path: Path, cache: CacheOptions) -> None:
    folder = make_one_broken(tmp_path / "shards", SAMPLES, broken=33)
    dataset = ShardDataset(folder, labels=True, cache=cache)
    batch = dataset.__getitems__(range(SAMPLES))
    assert batch.labels is not None and [bad.key for bad in batch.bad] == [key(33)]
    assert batch.labels.tolist() == [sample % 10 for sample in numbers(batch.images)]


def test_labels_are_read_once(tmp_path: Path, cache: CacheOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again by a worker, nor by another process of the node; but those of other tars are."""
    make_shards(tmp_path / "shards")
    first = ShardDataset(tmp_path / "shards", labels=True, cache=cache)
    expected = first.reader.labels_at(0, SAMPLES).tolist()
    read = module._read_all
    monkeypatch.setattr(module, "_read_all", None)
    again = ShardDataset(tmp_path / "shards", cache=cache)
    assert again.reader.labels_at(0, SAMPLES).tolist() == expected
    assert pickle.loads(pickle.dumps(first.reader)).labels_at(0, SAMPLES).tolist() == expected
    relabel(tmp_path / "shards", 0, b"9")
    reindex(tmp_path / "shards", read_manifest(tmp_path / "shards"))
    monkeypatch.setattr(module, "_read_all", read)
    changed = ShardDataset(tmp_path / "shards", cache=cache).reader.labels_at(0, SAMPLES)
    assert (changed != expected).sum() == 1


def test_labels_need_no_cache(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards")
    (tmp_path / "file").touch()
    dataset = ShardDataset(tmp_path / "shards", labels=True, cache=CacheOptions(tmp_path / "file" / "cache"))
    with closing(batches(dataset, position=0, batch_size=SAMPLES, workers=1)) as stream:
        batch = next(stream)
    assert batch.labels is not None
    assert batch.labels.tolist() == [sample % 10 for sample in numbers(batch.images)]


def test_classes_without_names_are_called_by_their_numbers(tmp_path: Path, cache: CacheOptions) -> None:
    """As in the tars of other tools."""
    make_shards(tmp_path / "tars", samples=3)
    index_tars(str(tmp_path / "tars"), tmp_path / "index")
    assert ShardDataset(tmp_path / "index", labels=True, cache=cache).classes == ("0", "1", "2")


def test_numbers_with_gaps_are_no_classes_without_images(tmp_path: Path, cache: CacheOptions) -> None:
    """As those of a part of ImageNet. A label is then the place of its class, also in a worker process."""
    make_shards(tmp_path / "shards", samples=3)
    for sample, label in enumerate((b"701", b"0", b"217")):
        relabel(tmp_path / "shards", sample, label)
    index_tars(str(tmp_path / "shards"), tmp_path / "index")
    dataset = ShardDataset(tmp_path / "index", labels=True, cache=cache)
    assert dataset.classes == ("0", "217", "701") and not dataset.empty_classes
    with closing(batches(dataset, position=0, batch_size=3, workers=1)) as stream:
        batch = next(stream)
    assert batch.labels is not None
    assert dict(zip(numbers(batch.images), batch.labels.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}
    assert sorted(ShardDataset(tmp_path / "index", cache=cache).reader.labels_at(0, 3).tolist()) == [0, 217, 701]


def test_runs_of_earlier_versions_keep_classes_without_images(tmp_path: Path, cache: CacheOptions) -> None:
    make_shards(tmp_path / "shards", samples=3)
    for sample, label in enumerate((b"5", b"1", b"3")):
        relabel(tmp_path / "shards", sample, label)
    index_tars(str(tmp_path / "shards"), tmp_path / "index")
    every = tuple("012345")
    for classes, wanted, labels in (
        (every, every, {5, 1, 3}),
        (tuple("135"), tuple("135"), {0, 1, 2}),
        (("a", "b"), tuple("135"), {0, 1, 2}),
    ):
        dataset = ShardDataset(tmp_path / "index", labels=True, cache=cache)
        dataset.take_classes(classes)
        assert dataset.classes == wanted
        assert dataset.labels_digest == digest_labels(wanted, dataset.reader.labels)
        with closing(batches(dataset, position=0, batch_size=3, workers=1)) as stream:
            batch = next(stream)
        assert batch.labels is not None and {*batch.labels.tolist()} == labels


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        *((label, "not a number") for label in (b"a", b"", b"-1", b"1.5", b"3 5", b"1" * 20)),
        (b"65536", "is 65536; classes are numbered from 0 to 65535"),
    ],
)
def test_a_label_that_is_no_class_is_named(tmp_path: Path, cache: CacheOptions, label: bytes, problem: str) -> None:
    make_shards(tmp_path / "shards")
    relabel(tmp_path / "shards", 23, label)
    with pytest.raises(InputError, match=rf"shard-00001\.tar.*{key(23)}\.cls.*{problem}"):
        ShardDataset(tmp_path / "shards", labels=True, cache=cache)
