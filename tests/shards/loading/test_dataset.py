from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.common.errors import InputError
from shards.format.index import ENTRY
from shards.format.manifest import INDEX, MANIFEST, Manifest, Shard, read_manifest
from shards.loading.dataset import Batch, ShardDataset
from shards.loading.reader import BLOCK_BYTES, default_block
from shards.order.order import flips
from tests.support.make import flags, key, make_shards, numbers, reindex

SAMPLES = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only read; tests that break things make their own."""
    path = tmp_path_factory.mktemp("shards")
    make_shards(path, samples=SAMPLES)
    return path


def entry(folder: Path, number: int) -> np.void:
    return np.load(folder / INDEX)[number]


def overwrite(folder: Path, shard: int, offset: int, data: bytes) -> None:
    with (folder / f"shard-{shard:05d}.tar").open("rb+") as file:
        file.seek(offset)
        file.write(data)


def read_all(dataset: ShardDataset) -> list[Batch]:
    return [dataset[position] for position in range(len(dataset))]


@pytest.mark.parametrize(
    ("format", "channels", "size"), [("npy", 1, 32), ("npy", 3, 64), ("png", 1, 32), ("png", 3, 32)]
)
def test_an_epoch_gives_every_image_once_under_its_key(tmp_path: Path, format: str, channels: int, size: int) -> None:
    make_shards(tmp_path, samples=SAMPLES, format=format, channels=channels, size=size)
    dataset = ShardDataset(tmp_path, seed=3, lanes=8, block=5, keys=True)
    for epoch in (0, 1):
        batch = dataset.__getitems__(range(epoch * SAMPLES, (epoch + 1) * SAMPLES))
        assert batch.images.shape == (SAMPLES, size, size, channels)
        assert batch.images.dtype == torch.uint8
        assert sorted(numbers(batch.images)) == list(range(SAMPLES))
        assert batch.keys == tuple(key(number) for number in numbers(batch.images))


def test_the_images_stand_in_the_documented_order(folder: Path) -> None:
    dataset = ShardDataset(folder, seed=5, lanes=4, block=6)
    shards, rows = dataset.order.lookup(np.arange(30, 120))
    assert numbers(dataset.__getitems__(range(30, 120)).images) == (shards * 20 + rows).tolist()


def test_a_batch_is_its_samples(folder: Path) -> None:
    dataset = ShardDataset(folder, seed=1, flip=True, keys=True)
    batch = dataset.__getitems__(range(40, 60))
    assert batch.position == 40
    for row, single in enumerate(dataset[position] for position in range(40, 60)):
        assert single.position == 40 + row
        assert torch.equal(single.images[0], batch.images[row])
        assert single.keys == batch.keys[row : row + 1]


def test_keys_are_read_only_when_asked_for(folder: Path) -> None:
    assert ShardDataset(folder)[0].keys == ()


def test_exactly_the_positions_that_the_seed_decides_are_mirrored(folder: Path) -> None:
    positions = range(13, 113)
    plain = ShardDataset(folder, seed=9).__getitems__(positions)
    mixed = ShardDataset(folder, seed=9, flip=True).__getitems__(positions)
    assert numbers(plain.images) == numbers(mixed.images)
    assert not any(flags(plain.images))
    assert flags(mixed.images) == flips(9, positions.start, len(positions)).tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_are_decoded(tmp_path: Path, channels: int) -> None:
    make_shards(tmp_path, samples=6, channels=channels, format="jpg")
    batch = ShardDataset(tmp_path).__getitems__(range(6))
    assert batch.images.shape == (6, 32, 32, channels)
    assert (batch.images[:, :, 0].float().mean() > 220).all()


def test_length_is_an_epoch(folder: Path) -> None:
    assert len(ShardDataset(folder)) == SAMPLES


def test_a_block_is_about_two_mebibytes() -> None:
    def manifest(*shards: tuple[int, int]) -> Manifest:
        return Manifest("x", "jpg", 64, 3, tuple(Shard("x.tar", n, size, "") for n, size in shards), "")

    assert default_block(manifest((1000, 5_000_000), (500, 2_500_000))) == BLOCK_BYTES // 5000
    assert default_block(manifest((3, 300_000_000))) == 1


def test_one_changed_bit_is_noticed_and_named(tmp_path: Path) -> None:
    make_shards(tmp_path, samples=SAMPLES)
    offset = int(entry(tmp_path, 27)["offset"])
    byte = (tmp_path / "shard-00001.tar").read_bytes()[offset + 7]
    overwrite(tmp_path, 1, offset + 7, bytes([byte ^ 1]))
    dataset = ShardDataset(tmp_path)
    with pytest.raises(InputError, match=f"'{key(27)}' of .*shard-00001.tar, at byte {offset}, .*the shard changed"):
        read_all(dataset)


def test_a_shard_overwritten_headers_and_all_is_named(tmp_path: Path) -> None:
    manifest = make_shards(tmp_path, samples=SAMPLES)
    overwrite(tmp_path, 1, 0, np.random.default_rng(0).bytes(manifest.shards[1].bytes))
    with pytest.raises(InputError, match=r"'\?' of .*shard-00001.tar, at byte \d+, is not what was indexed"):
        read_all(ShardDataset(tmp_path))


@pytest.mark.parametrize("damage", [bytes(512), b"x" * 512])
def test_a_header_that_is_gone_is_noticed_when_keys_are_read(tmp_path: Path, damage: bytes) -> None:
    make_shards(tmp_path, samples=SAMPLES)
    overwrite(tmp_path, 1, (offset := int(entry(tmp_path, 27)["offset"]) - 512), damage)
    assert len(read_all(ShardDataset(tmp_path))) == SAMPLES
    with pytest.raises(InputError, match=f"shard-00001.tar, at byte {offset}: There is no tar header"):
        read_all(ShardDataset(tmp_path, keys=True))


@pytest.mark.parametrize("format", ["jpg", "png", "npy"])
def test_an_image_that_was_indexed_broken_is_replaced_by_its_neighbour(tmp_path: Path, format: str) -> None:
    manifest = make_shards(tmp_path, samples=SAMPLES, format=format)
    row = entry(tmp_path, 27)
    overwrite(tmp_path, 1, int(row["offset"]), bytes(int(row["size"])))
    reindex(tmp_path, manifest)
    dataset = ShardDataset(tmp_path, keys=True)
    stream = dataset.__getitems__(range(SAMPLES + 1))
    bad = stream.bad[0]
    assert (bad.key, bad.offset) == (key(27), row["offset"])
    assert bad.shard.endswith("shard-00001.tar")
    assert torch.equal(stream.images[bad.position], stream.images[bad.position + 1])
    assert stream.keys[bad.position] == stream.keys[bad.position + 1] != key(27)
    shards, rows = dataset.order.lookup(np.arange(SAMPLES))
    assert bad.position == (shards * 20 + rows).tolist().index(27)
    alone = dataset[bad.position]  # the neighbour lies in another batch, perhaps another rank's
    assert torch.equal(alone.images[0], stream.images[bad.position]) and alone.bad == (bad,)
    strict = ShardDataset(tmp_path, strict=True)
    with pytest.raises(InputError, match=f"'{key(27)}' of .*shard-00001.tar, at byte {row['offset']}, does not decode"):
        read_all(strict)


@pytest.mark.parametrize("format", ["jpg", "png", "npy"])
def test_an_image_of_another_size_does_not_decode(tmp_path: Path, format: str) -> None:
    manifest = make_shards(tmp_path, samples=3, format=format)
    other = make_shards(tmp_path / "other", samples=3, format=format, size=64)
    for shard in other.shards:
        (tmp_path / "other" / shard.name).replace(tmp_path / shard.name)
    reindex(tmp_path, manifest)
    with pytest.raises(InputError, match="does not decode"):
        read_all(ShardDataset(tmp_path, strict=True))
    with pytest.raises(InputError, match="100 samples in a row do not decode"):
        read_all(ShardDataset(tmp_path))


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def no_tar(folder: Path) -> None:
    (folder / "shard-00002.tar").unlink()


def cut_tar(folder: Path) -> None:
    os.truncate(folder / "shard-00002.tar", 1024)


def no_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def cut_index(folder: Path) -> None:
    os.truncate(folder / INDEX, (folder / INDEX).stat().st_size - 1)


def empty_index(folder: Path) -> None:
    os.truncate(folder / INDEX, 0)


def short_index(folder: Path) -> None:
    np.save(folder / INDEX, np.load(folder / INDEX)[:-1])


def other_index(folder: Path) -> None:
    np.save(folder / INDEX, np.zeros(SAMPLES))


def pickled_index(folder: Path) -> None:
    np.save(folder / INDEX, np.array([{}] * SAMPLES, dtype=object))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_manifest, f"holds tars but no {MANIFEST}"),
        (no_tar, "shard-00002.tar cannot be read"),
        (cut_tar, "shard-00002.tar has 1024 bytes"),
        (no_index, f"{INDEX} cannot be read"),
        (cut_index, f"{INDEX} cannot be read"),
        (empty_index, f"{INDEX} cannot be read"),
        (short_index, "holds 49 samples, the manifest 50"),
        (other_index, "belong to different data sets"),
        (pickled_index, f"{INDEX} cannot be read"),
    ],
)
def test_parts_that_do_not_fit_are_noticed_at_opening(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    make_shards(tmp_path, samples=SAMPLES)
    damage(tmp_path)
    with pytest.raises(InputError, match=message):
        ShardDataset(tmp_path)


def test_no_folder_is_an_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder.*python -m shards build"):
        ShardDataset(tmp_path / "none")


def test_the_index_is_mapped_not_read(folder: Path) -> None:
    index = ShardDataset(folder).reader._index
    assert isinstance(index, np.memmap)
    assert index.dtype == ENTRY


def test_a_copy_reads_the_same_with_files_and_a_map_of_its_own(folder: Path) -> None:
    """What a spawned worker gets: descriptors are not its own, and an index by value would be 24 bytes a sample."""
    dataset = ShardDataset(folder, seed=2, flip=True)
    expected = numbers(dataset.__getitems__(range(100)).images)
    pickled = pickle.dumps(dataset)
    assert dataset.reader._index.tobytes() not in pickled
    copy: ShardDataset = pickle.loads(pickled)
    dataset.reader._storage.close()
    assert numbers(copy.__getitems__(range(100)).images) == expected
    assert isinstance(copy.reader._index, np.memmap)
    assert copy.reader._index._mmap is not None


def test_its_manifest_is_the_folders(folder: Path) -> None:
    assert ShardDataset(folder).manifest == read_manifest(folder)
