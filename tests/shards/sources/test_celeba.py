from __future__ import annotations

import io
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.common.errors import InputError
from shards.sources.celeba import Celeba
from shards.sources.source import BadImage

NAMES = [f"{number:06d}.jpg" for number in (34, 75, 140, 201)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four faces of noise, two of them for training, in CelebA's own layout."""
    rng, raw = np.random.default_rng(0), tmp_path / "raw"
    (raw / "img_align_celeba").mkdir(parents=True)
    for name in NAMES:
        pixels = rng.integers(0, 256, (218, 178, 3), np.uint8)
        Image.fromarray(pixels).save(raw / "img_align_celeba" / name)
    marks = "\n".join(f"{name} {' 1 -1' if name < NAMES[2] else '-1  1'}" for name in NAMES)
    (raw / "list_attr_celeba.txt").write_text(f"4\nSmiling Young \n{marks}\n")
    (raw / "list_eval_partition.txt").write_text("".join(f"{n} {s}\n" for n, s in zip(NAMES, "0012", strict=True)))
    return raw


def zipped(raw: Path) -> Path:
    with zipfile.ZipFile(raw / "img_align_celeba.zip", "w") as archive:
        for name in NAMES:
            archive.write(raw / "img_align_celeba" / name, f"img_align_celeba/{name}")
    shutil.rmtree(raw / "img_align_celeba")
    return raw / "img_align_celeba.zip"


def test_attributes_and_split(raw: Path) -> None:
    source = pickle.loads(pickle.dumps(Celeba(raw)))
    assert [source[index].attributes for index in range(len(source))] == [
        {"file": "000034.jpg", "split": "train", "Smiling": 1, "Young": 0},
        {"file": "000075.jpg", "split": "train", "Smiling": 1, "Young": 0},
        {"file": "000140.jpg", "split": "valid", "Smiling": 0, "Young": 1},
        {"file": "000201.jpg", "split": "test", "Smiling": 0, "Young": 1},
    ]


@pytest.mark.parametrize(("split", "names"), [("train", NAMES[:2]), ("valid", NAMES[2:3]), ("test", NAMES[3:])])
def test_one_split(raw: Path, split: str, names: list[str]) -> None:
    source = Celeba(raw, split=split)  # type: ignore[arg-type]
    assert [source[index].origin.rpartition("/")[2] for index in range(len(source))] == names


@pytest.mark.parametrize("crop", [178, 108])
def test_the_crop_is_the_middle(raw: Path, crop: int) -> None:
    with Image.open(raw / "img_align_celeba" / NAMES[0]) as image:
        whole = np.asarray(image)
    top, left = (218 - crop) // 2, (178 - crop) // 2
    found = np.asarray(Celeba(raw, crop)[0].image)
    assert np.array_equal(found, whole[top : top + crop, left : left + crop])


def test_folder_zip_and_their_parents_are_the_same_set(raw: Path) -> None:
    def contents(source: Celeba) -> list[tuple[bytes, object]]:
        return [(source[index].image.tobytes(), source[index].attributes) for index in range(len(source))]

    expected = contents(Celeba(raw))
    assert contents(Celeba(raw / "img_align_celeba")) == expected
    archive = zipped(raw)
    assert contents(Celeba(archive)) == expected
    assert contents(Celeba(raw.parent / "raw" / ".")) == expected


def test_without_lists_there_are_files_only(raw: Path) -> None:
    for path in raw.glob("*.txt"):
        path.unlink()
    assert Celeba(raw)[0].attributes == {"file": "000034.jpg"}
    with pytest.raises(InputError, match=r"no list_eval_partition\.txt"):
        len(Celeba(raw, split="train"))


def test_a_list_that_lacks_an_image_is_named(raw: Path) -> None:
    path = raw / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("000140", "000141"))
    with pytest.raises(InputError, match=r"list_attr_celeba\.txt has no line for 000140\.jpg"):
        len(Celeba(raw))


def test_what_is_not_celeba(raw: Path) -> None:
    (raw / "empty").mkdir()
    for path in (raw / "nowhere", raw / "empty"):
        with pytest.raises(InputError, match="contains no img_align_celeba and no"):
            len(Celeba(path))
    cut = raw / "cut.zip"
    cut.write_bytes(zipped(raw).read_bytes()[:-30])
    with pytest.raises(InputError, match=r"cut\.zip is not a complete zip file"):
        len(Celeba(cut))


def test_a_broken_member_of_a_zip_is_one_bad_image(raw: Path) -> None:
    archive = zipped(raw)
    data = bytearray(archive.read_bytes())
    data[2000] ^= 255
    archive.write_bytes(data)
    with pytest.raises(BadImage, match=r"000034\.jpg is broken inside img_align_celeba\.zip"):
        Celeba(archive)[0]
    assert Celeba(archive)[1].image.size == (178, 178)


def test_a_crop_larger_than_the_image(raw: Path) -> None:
    with pytest.raises(BadImage, match=r"000034\.jpg is 178x218 pixels, too small for a crop of 200"):
        Celeba(raw, 200)[0]


def test_real_celeba(real_data: Path) -> None:
    source = Celeba(real_data / "celeba")
    assert len(source) == 3000
    attributes = source[0].attributes
    assert attributes is not None
    assert len(attributes) == 42
    assert {
        "file": "000034.jpg",
        "split": "train",
        "Brown_Hair": 1,
        "Male": 0,
        "Young": 1,
    }.items() <= attributes.items()
    with Image.open(io.BytesIO((real_data / "celeba/img_align_celeba/000034.jpg").read_bytes())) as image:
        assert np.array_equal(np.asarray(source[0].image), np.asarray(image)[20:198])
