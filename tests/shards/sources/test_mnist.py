from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.common.errors import InputError
from shards.sources.mnist import Mnist

Pack = Callable[[bytes], bytes]


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, images: bytes, labels: bytes, prefix: str = "train", ending: str = "") -> Mnist:
    folder.mkdir(exist_ok=True)
    pack: Pack = gzip.compress if ending else bytes
    (folder / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(pack(images))
    (folder / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(pack(labels))
    return Mnist(folder)


def digits(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pixels_and_labels_come_back(tmp_path: Path, ending: str) -> None:
    images, labels = digits(7)
    source = pickle.loads(pickle.dumps(write(tmp_path / "raw", idx(images), idx(labels), ending=ending)))
    items = [source[index] for index in range(len(source))]
    assert np.array_equal(np.stack([np.asarray(item.image) for item in items]), images)
    assert [item.label for item in items] == labels.tolist()
    assert items[3].origin == "train/00003"


def test_splits_follow_one_another(tmp_path: Path) -> None:
    train, test = digits(5), digits(3)
    write(tmp_path, *map(idx, train))
    write(tmp_path, *map(idx, test), prefix="t10k")
    both = Mnist(tmp_path, "all")
    assert (len(Mnist(tmp_path, "train")), len(Mnist(tmp_path, "test")), len(both)) == (5, 3, 8)
    assert [both[index].label for index in range(8)] == [*train[1], *test[1]]
    assert both[5].origin == "t10k/00000"
    with pytest.raises(IndexError):
        both[8]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(digits(4)[0])[:-1], idx(digits(4)[1]), "header promises 3152"),
        (idx(digits(4)[0]) + b"x", idx(digits(4)[1]), "3153 bytes"),
        (idx(digits(4)[0]), idx(digits(3)[1]), "4 train images but 3 labels"),
        (idx(digits(4)[1]), idx(digits(4)[1]), "not an IDX file"),
        (b"", idx(digits(4)[1]), "not an IDX file"),
        (b"\0\0\x08\x03\0\0", idx(digits(4)[1]), "not an IDX file"),
        (b"\0\0\x08\x03" + b"\xff" * 12, idx(digits(4)[1]), "header promises"),
        (idx(digits(2)[0]), idx(np.array([3, 10], np.uint8)), "label above 9"),
    ],
)
def test_files_that_are_not_mnist(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    source = write(tmp_path / "raw", images, labels)
    with pytest.raises(InputError, match=message):
        len(source)


def test_a_cut_gzip_and_a_missing_file_are_named(tmp_path: Path) -> None:
    source = write(tmp_path, *map(idx, digits(4)), ending=".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz cannot be read"):
        len(source)
    path.unlink()
    with pytest.raises(InputError, match=r"holds neither train-images-idx3-ubyte nor"):
        len(source)
    with pytest.raises(InputError, match=r"nowhere holds neither train-images-idx3-ubyte nor"):
        len(Mnist(tmp_path / "nowhere"))


def test_real_mnist(real_data: Path) -> None:
    source = Mnist(real_data / "mnist", "all")
    assert len(source) == 70000
    assert [source[index].label for index in (0, 1, 2, 60000)] == [5, 0, 4, 7]
    assert source[0].image.size == (28, 28)
