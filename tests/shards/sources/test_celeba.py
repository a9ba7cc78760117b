from __future__ import annotations

import io
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.common.errors import InputError
from shards.sources import celeba
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


PIXELS = b"P5 178 218 255\n" + bytes(178 * 218)


def zipped(raw: Path) -> Path:
    with zipfile.ZipFile(raw / "img_align_celeba.zip", "w") as archive:
        for name in NAMES:
            archive.write(raw / "img_align_celeba" / name, f"img_align_celeba/{name}")
    shutil.rmtree(raw / "img_align_celeba")
    return raw / "img_align_celeba.zip"


def test_attributes_and_split(raw: Path) -> None:
    source = pickle.loads(pickle.dumps(Celeba(raw)))
    assert [source[index].attributes for index in range(len(source))] == EXPECTED


@pytest.mark.parametrize(("split", "names"), [("train", NAMES[:2]), ("valid", NAMES[2:3]), ("test", NAMES[3:])])
def test_one_split(raw: Path, split: str, names: list[str]) -> None:
    source = Celeba(raw, split=split)  # type: ignore[arg-type]
    assert [source[index].origin.rpartition("/")[2] for index in range(len(source))] == names


def test_the_digest_is_that_of_names_attributes_and_split(raw: Path) -> None:
    """As well in a zip; a part of another split or other attributes has another one."""
    found = {Celeba(raw).digest()}
    zipped(raw)
    celeba._listing.cache_clear()
    assert found == {Celeba(raw).digest()}
    found.add(Celeba(raw, split="train").digest())
    for name, old, new in [("list_attr_celeba.txt", "Young", "Old"), ("list_attr_celeba.txt", " 1 -1", " 1  1"),
                           ("list_eval_partition.txt", f"{NAMES[0]} 0", f"{NAMES[0]} 1")]:  # fmt: skip
        (raw / name).write_text((raw / name).read_text().replace(old, new))
        celeba._listing.cache_clear()
        found.add(Celeba(raw).digest())
    (raw / "list_attr_celeba.txt").unlink()
    celeba._listing.cache_clear()
    found.add(Celeba(raw).digest())
    assert len(found) == 6


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


EXPECTED = [
    {"file": "000034.jpg", "split": "train", "Smiling": 1, "Young": 0},
    {"file": "000075.jpg", "split": "train", "Smiling": 1, "Young": 0},
    {"file": "000140.jpg", "split": "valid", "Smiling": 0, "Young": 1},
    {"file": "000201.jpg", "split": "test", "Smiling": 0, "Young": 1},
]


def attributes(raw: Path) -> list[object]:
    source = Celeba(raw)
    return [source[index].attributes for index in range(len(source))]


def tables(raw: Path, change: Callable[[str], str] = str, ending: str = ".csv") -> tuple[Path, Path]:
    """Replaces the lists by those of Kaggle's package, with a line of an image that is not there."""
    for path in raw.glob("*.txt"):
        path.unlink()
    marks = [f"{name},{'1,-1' if name < NAMES[2] else '-1,1'}" for name in ["000001.jpg", *NAMES]]
    splits = [f"{name},{split}" for name, split in zip(["000001.jpg", *NAMES], "00012", strict=True)]
    paths = raw / f"list_attr_celeba{ending}", raw / f"list_eval_partition{ending}"
    for path, header, lines in zip(paths, ("Smiling,Young", "partition"), (marks, splits), strict=True):
        path.write_bytes(change("\n".join([f"image_id,{header}", *lines]) + "\n").encode("latin-1"))
    return paths


@pytest.mark.parametrize(
    ("change", "ending"),
    [
        (str, ".csv"),
        (lambda text: text.replace("\n", "\r\n") + "\r\n \r\n", ".csv"),
        (lambda text: "\xef\xbb\xbf" + text, ".csv"),
        (lambda text: re.sub(r"[^,\n]+", r'"\g<0>"', text), ".csv"),
        (lambda text: text.replace(",", ";"), ".csv"),
        (lambda text: text.replace(",", "\t"), ".tsv"),
        (lambda text: text.replace("image_id", ""), ".csv"),
        (lambda text: text.replace(".jpg", ""), ".csv"),
        (lambda text: text.replace("-1", "0"), ".csv"),
        (lambda text: text.partition("\n")[2] if "partition" in text else f"5\n{text[9:]}".replace(",", " "), ".txt"),
        (lambda text: text + text.partition("\n")[2] + "\n\n", " (1).csv"),
        (
            lambda text: "".join(f"{n - 1 if n else ''},{line}\n" for n, line in enumerate(text.split())),
            ".csv",
        ),  # pandas
    ],
)
def test_lists_of_other_packages(raw: Path, change: Callable[[str], str], ending: str) -> None:
    tables(raw, change, ending)
    assert attributes(raw) == EXPECTED
    assert Celeba(raw).passed_over == {}


def test_lists_and_a_zip_of_windows(raw: Path) -> None:
    with zipfile.ZipFile(zipped(raw), "w") as archive:
        for name in NAMES:
            member = zipfile.ZipInfo(name)
            member.filename = f"img_align_celeba\\{name}"
            archive.writestr(member, PIXELS)
    for path in raw.glob("*.txt"):
        path.rename(raw / path.name.upper())
    assert attributes(raw) == EXPECTED


def test_blank_lines_in_the_original_lists(raw: Path) -> None:
    for path in raw.glob("*.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert attributes(raw) == EXPECTED


@pytest.mark.parametrize(
    ("images", "lists", "named"),
    [
        ("img_align_celeba/img_align_celeba", "", ""),  # Kaggle
        ("img_align_celeba/img_align_celeba", "", "img_align_celeba"),
        ("img_align_celeba/img_align_celeba", "", "img_align_celeba/img_align_celeba"),
        ("Img/img_align_celeba", "Anno", ""),  # the original download
        ("Img/img_align_celeba", "Eval", "Img"),
        ("CelebA/Img/IMG_ALIGN_CELEBA", "CelebA/Anno", "CelebA"),
        ("celeba/img_align_celeba", "celeba", ""),
        ("img_align_celeba", "annotations", ""),
        ("img_align_celeba_png", "", ""),
        ("img_align_celeba", "img_align_celeba", "img_align_celeba"),
    ],
)
def test_layouts_of_other_packages(raw: Path, images: str, lists: str, named: str) -> None:
    new = raw.parent / "new"
    (new / lists).mkdir(parents=True)
    for path in raw.glob("*.txt"):
        path.rename(new / lists / path.name)
    (new / images).mkdir(parents=True, exist_ok=True)
    for path in (raw / "img_align_celeba").iterdir():
        path.rename(new / images / path.name.replace(".jpg", ".JPG"))
    (new / "__MACOSX" / "img_align_celeba").mkdir(parents=True)
    for junk in ("__MACOSX/img_align_celeba/000001.jpg", f"{images}/._000034.jpg", f"{images}/Thumbs.db"):
        (new / junk).write_bytes(b"no image")
    (new / images / "@eaDir").mkdir()
    expected = [fields | {"file": fields["file"].replace("jpg", "JPG")} for fields in EXPECTED]  # type: ignore[attr-defined]
    assert attributes(new / named) == expected


def test_png_images_match_the_lists_of_jpg(raw: Path) -> None:
    for path in (raw / "img_align_celeba").iterdir():
        with Image.open(path) as image:
            image.save(raw / "img_align_celeba" / f"{path.stem}.png")
        path.unlink()
    assert attributes(raw)[0] == {**EXPECTED[0], "file": "000034.png"}


def test_one_archive_of_everything(raw: Path) -> None:
    lists = tables(raw)
    archive = raw.parent / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in NAMES:
            file.write(raw / "img_align_celeba" / name, f"img_align_celeba/img_align_celeba/{name}")
            file.writestr(f"__MACOSX/img_align_celeba/._{name}", b"no image")
            file.writestr(f"img_celeba/{name}", b"another image")
        file.writestr("preview.png", b"another image")
        for path in lists:
            file.write(path, path.name)
    shutil.rmtree(raw)
    assert attributes(archive) == EXPECTED
    assert attributes(raw.parent) == EXPECTED


def test_a_zip_beside_an_empty_folder(raw: Path) -> None:
    zipped(raw).rename(raw / "IMG_ALIGN_CELEBA.ZIP")
    (raw / "img_align_celeba").mkdir()
    assert attributes(raw) == EXPECTED


def test_a_zip_of_a_zip_and_one_with_a_password(raw: Path, tmp_path: Path) -> None:
    inner = zipped(raw)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.write(inner, "Img/img_align_celeba.zip")
    with pytest.raises(InputError, match=r"holds no images, but Img/img_align_celeba\.zip\. Unpack"):
        len(Celeba(tmp_path / "all.zip"))
    data = inner.read_bytes()  # flag bit 0: encrypted
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.index(mark) + flags
        data = data[:start] + b"\1\0" + data[start + 2 :]
    inner.write_bytes(data)
    with pytest.raises(BadImage, match=r"000034\.jpg is broken inside .* encrypted"):
        Celeba(inner)[0]


def test_lists_that_do_not_fit(raw: Path) -> None:
    marks, splits = tables(raw)
    text = marks.read_text()
    for broken in (
        text.replace("000140.jpg,-1,1", "000140.jpg,-1"),
        text.replace("000140.jpg,-1,1", "000140.jpg,-1,x"),
    ):
        marks.write_text(broken)
        with pytest.raises(
            InputError, match=r"list_attr_celeba\.csv has a line for 000140 that does not fit its columns"
        ):
            len(Celeba(raw / "."))
    marks.write_text(text)
    splits.write_text(splits.read_text().replace("000140.jpg,1", "000140.jpg,3"))
    with pytest.raises(InputError, match=r"list_eval_partition\.csv has a line for 000140"):
        len(Celeba(raw))


@pytest.mark.parametrize("number", ["4\n", ""])
def test_a_list_of_one_attribute(raw: Path, number: str) -> None:
    marks = "\n".join(f"{name} {1 if name < NAMES[2] else -1}" for name in NAMES)
    (raw / "list_attr_celeba.txt").write_text(f"{number}Smiling\n{marks}\n")
    source = Celeba(raw)
    assert [source[index].attributes["Smiling"] for index in range(len(NAMES))] == [1, 1, 0, 0]


def test_lists_that_are_not_read_are_said(raw: Path) -> None:
    for path in raw.glob("*.txt"):
        path.unlink()
    (raw / "list_attr_celeba.csv.zip").write_bytes(b"PK")
    (raw / "list_bbox_celeba.txt").write_text("4\n")
    source = Celeba(raw)
    assert source[0].attributes == {"file": "000034.jpg"}
    assert source.passed_over == {"list_attr_celeba.csv.zip": 1}


def test_two_images_of_one_name(raw: Path) -> None:
    with zipfile.ZipFile(raw.parent / "x.zip", "w") as file:
        for part in ("train", "test"):
            file.writestr(f"{part}/1.jpg", b"an image")
    with pytest.raises(InputError, match="several images of one name"):
        len(Celeba(raw.parent / "x.zip"))


def test_a_member_that_unpacks_to_gigabytes(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.sources.celeba.MAX_BYTES", 10)
    with pytest.raises(BadImage, match=r"broken inside img_align_celeba.zip \([\d,]+ bytes, more than 10\)"):
        Celeba(zipped(raw))[0]


def test_files_that_cannot_be_read(raw: Path) -> None:
    folder = raw / "img_align_celeba"
    (folder / NAMES[0]).unlink()
    (folder / NAMES[0]).symlink_to("nowhere")
    (folder / "x\udce9.jpg").write_text("text")
    for path in raw.glob("*.txt"):
        path.unlink()
    source = Celeba(raw)
    with pytest.raises(BadImage, match=r"^img_align_celeba/000034\.jpg cannot be read \(No such file"):
        source[0]
    with pytest.raises(BadImage, match=r"^img_align_celeba/x\\xe9\.jpg cannot be decoded"):
        source[4]


def test_without_lists_there_are_files_only(raw: Path) -> None:
    for path in raw.glob("*.txt"):
        path.unlink()
    assert Celeba(raw)[0].attributes == {"file": "000034.jpg"}
    with pytest.raises(InputError, match=r"no list_eval_partition\.txt or \.csv"):
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
