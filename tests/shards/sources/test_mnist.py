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


def idx(array: np.ndarray, code: int = 8) -> bytes:
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, images: bytes, labels: bytes, prefix: str = "train", ending: str = "") -> Mnist:
    folder.mkdir(parents=True, exist_ok=True)
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


def test_the_digest_is_that_of_pixels_and_labels(tmp_path: Path) -> None:
    images, labels = digits(7)
    first = write(tmp_path / "raw", idx(images), idx(labels)).digest()
    assert write(tmp_path / "packed", idx(images), idx(labels), ending=".gz").digest() == first
    assert write(tmp_path / "labels", idx(images), idx(9 - labels)).digest() != first
    assert write(tmp_path / "images", idx(255 - images), idx(labels)).digest() != first


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
        (idx(digits(2)[0]), idx(np.array([3, -1], ">i4"), 12), "train labels from -1 to 3"),
        (idx(digits(2)[0]), idx(digits(2)[0]), "not an IDX file of labels"),
        (idx(np.zeros((2, 28, 28), ">i4"), 12), idx(digits(2)[1]), "not an IDX file of images"),
        (idx(digits(0)[0]), idx(digits(0)[1]), "no train images"),
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


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),  # Kaggle
        ("train-images-idx3-ubyte/train-images-idx3-ubyte", "train-labels-idx1-ubyte/train-labels-idx1-ubyte"),
        ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"),  # torchvision
        ("emnist-digits-train-images-idx3-ubyte.gz", "emnist-digits-train-labels-idx1-ubyte.gz"),
        ("Train-Images.IDX3-UBYTE", "train_labels_idx1_ubyte (1).gz"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_names_and_compression_of_other_packages(tmp_path: Path, images: str, labels: str, pack: Pack) -> None:
    arrays = digits(5)
    for name, array in zip((images, labels), arrays, strict=True):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(pack(idx(array)))
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "train-images-idx3-ubyte").touch()
    (tmp_path / "._train-images-idx3-ubyte").touch()
    source = Mnist(tmp_path)
    assert [source[index].label for index in range(5)] == arrays[1].tolist()
    assert np.array_equal(np.asarray(source[4].image), arrays[0][4])


def test_both_packed_and_unpacked(tmp_path: Path) -> None:
    write(tmp_path, *map(idx, digits(6)))
    write(tmp_path, b"", b"", ending=".gz")
    write(tmp_path / "old", *map(idx, digits(3)))  # the nearest files count
    assert len(Mnist(tmp_path)) == 6


@pytest.mark.parametrize(("split", "labels"), [("letters", [1, 26, 13]), ("byclass", [61, 0, 10])])
def test_emnist_has_more_classes(tmp_path: Path, split: str, labels: list[int]) -> None:
    for part, kept in (("train", labels), ("test", labels[2:])):
        for kind, array in (("images-idx3", digits(len(kept))[0]), ("labels-idx1", np.array(kept, np.uint8))):
            (tmp_path / f"emnist-{split}-{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    (tmp_path / f"emnist-{split}-mapping.txt").write_text("1 65 97")
    train, test = Mnist(tmp_path), Mnist(tmp_path, "test")
    assert [train[index].label for index in range(3)] == labels
    assert test[0].label == labels[2]
    assert train.classes == test.classes == tuple(map(str, range(max(labels) + 1)))


def test_qmnist_has_more_columns(tmp_path: Path) -> None:
    images, labels = digits(3)
    more = np.column_stack([labels, np.full((3, 7), 70_000)]).astype(">i4")
    (tmp_path / "qmnist-test-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "qmnist-test-labels-idx2-int.gz").write_bytes(gzip.compress(idx(more, 12)))
    source = Mnist(tmp_path, "test")
    assert [source[index].label for index in range(3)] == labels.tolist()
    assert source.classes == tuple("0123456789")


def test_several_sets_are_told_apart_by_one_file(tmp_path: Path) -> None:
    for count, name in ((4, "letters"), (5, "digits")):
        for kind, array in zip(("images-idx3", "labels-idx1"), digits(count), strict=True):
            (tmp_path / f"emnist-{name}-train-{kind}-ubyte").write_bytes(idx(array))
    with pytest.raises(
        InputError, match=r"holds 2 sets\. Give a file of one .*/emnist-digits-train-.*/emnist-letters-"
    ):
        len(Mnist(tmp_path))
    assert len(Mnist(tmp_path / "emnist-letters-train-images-idx3-ubyte")) == 4
    assert len(Mnist(tmp_path / "emnist-digits-train-labels-idx1-ubyte")) == 5
    (tmp_path / "other.zip").touch()
    with pytest.raises(InputError, match=r"other\.zip holds neither"):  # not what lies beside it
        len(Mnist(tmp_path / "other.zip"))
    for name in ("fashion", "kuzushiji"):
        write(tmp_path / "both" / name, *map(idx, digits(3)))
    with pytest.raises(InputError, match=r"both holds 2 sets.*/fashion/train-.*/kuzushiji/train-"):
        len(Mnist(tmp_path / "both"))
    assert len(Mnist(tmp_path / "both" / "fashion")) == 3


def test_a_file_that_unpacks_to_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, *map(idx, digits(4)), ending=".gz")
    monkeypatch.setattr("shards.sources.mnist.MAX_BYTES", 1000)
    with pytest.raises(InputError, match="has 1001 bytes where its header promises 3152"):
        len(source)


def test_images_without_labels(tmp_path: Path) -> None:
    write(tmp_path, *map(idx, digits(4)))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"holds neither train-labels-idx1-ubyte nor"):
        len(Mnist(tmp_path))


def test_real_mnist(real_data: Path) -> None:
    source = Mnist(real_data / "mnist", "all")
    assert len(source) == 70000
    assert [source[index].label for index in (0, 1, 2, 60000)] == [5, 0, 4, 7]
    assert source[0].image.size == (28, 28)
