"""Every LMDB here is a real one, written by the lmdb package."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.sources import lsun
from shards.sources.lsun import Lsun
from shards.sources.source import BadImage
from tests.shards.conftest import Run


def write(folder: Path, images: Mapping[str, bytes]) -> Path:
    with lmdb.open(str(folder), map_size=1 << 28) as database, database.begin(write=True) as transaction:
        for key, value in images.items():
            transaction.put(key.encode(), value)
    return folder


def picture(level: int, size: tuple[int, int] = (40, 36)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (level, 0, 255 - level)).save(file, "webp", lossless=True)
    return file.getvalue()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two categories of two and three images, one with a validation part, and LSUN's test set."""
    raw = tmp_path / "lsun"
    raw.mkdir()
    write(raw / "church_outdoor_train_lmdb", {"b1": picture(11), "b0": picture(10)})
    write(raw / "bedroom_train_lmdb", {"a2": picture(2), "a0": picture(0), "a1": picture(1)})
    write(raw / "bedroom_val_lmdb", {"v": picture(50)})
    write(raw / "test_lmdb", {"t": picture(60)})
    (raw / "empty_lmdb").mkdir()
    return raw


def test_several_categories_are_classes(raw: Path) -> None:
    source = pickle.loads(pickle.dumps(Lsun(raw)))
    assert source.classes == ("bedroom", "church_outdoor")
    items = [source[index] for index in range(len(source))]
    assert [item.origin for item in items] == [
        *(f"bedroom/a{number}" for number in range(3)),
        *(f"church_outdoor/b{number}" for number in range(2)),
    ]
    assert [item.label for item in items] == [0, 0, 0, 1, 1]
    assert [item.image.getpixel((0, 0))[0] for item in items] == [0, 1, 2, 10, 11]
    assert items[4].attributes == {"file": "b1"}
    for index in (-1, 5):
        with pytest.raises(IndexError):
            source[index]


def test_other_processes_read_picked_items_without_all_keys(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picked = Lsun(raw).pick(np.array([4, 0]))
    monkeypatch.setattr(lsun, "_keys", None)
    items = pickle.loads(pickle.dumps(picked))
    assert [(item.origin, item.label) for item in (items[0], items[1])] == [("church_outdoor/b1", 1), ("bedroom/a0", 0)]
    assert [item.image.getpixel((0, 0))[0] for item in (items[0], items[1])] == [11, 0]


def test_the_digest_is_that_of_categories_and_keys(raw: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(raw, tmp_path / "copy")
    assert Lsun(copy).digest() == Lsun(raw).digest()
    folders = ("bedroom_train_lmdb", "church_outdoor_train_lmdb")
    other = tmp_path / "other"
    other.mkdir()
    write(other / folders[0], dict.fromkeys(("a0", "a1", "a3"), b""))
    write(other / folders[1], dict.fromkeys(("b0", "b1"), b""))
    moved = tmp_path / "moved"
    moved.mkdir()
    write(moved / folders[0], dict.fromkeys(("a0", "a1"), b""))
    write(moved / folders[1], dict.fromkeys(("a2", "b0", "b1"), b""))
    sources = Lsun(raw), Lsun(raw, split="all"), Lsun(raw, ("church_outdoor", "bedroom")), Lsun(other), Lsun(moved)
    assert len({source.digest() for source in sources}) == len(sources)


def test_one_category_has_no_label(raw: Path) -> None:
    for source in (Lsun(raw / "bedroom_train_lmdb"), Lsun(raw, ("bedroom",)), Lsun(raw, ("bedroom", "bedroom"))):
        assert (len(source), source.classes, source[2].label, source[2].origin) == (3, (), None, "bedroom/a2")


def test_categories_are_numbered_as_named(raw: Path) -> None:
    source = Lsun(raw, ("church_outdoor", "bedroom"))
    assert source.classes == ("church_outdoor", "bedroom")
    assert [(source[index].origin, source[index].label) for index in (0, 4)] == [
        ("church_outdoor/b0", 0),
        ("bedroom/a2", 1),
    ]


def test_splits_are_kept_apart(raw: Path) -> None:
    assert Lsun(raw, split="val")[0].origin == "bedroom/v"
    both = Lsun(raw, split="all")
    assert (len(both), both.classes) == (6, ("bedroom", "church_outdoor"))
    assert [both[index].label for index in range(6)] == [0, 0, 0, 0, 1, 1]
    assert [Lsun(raw / name)[0].origin for name in ("bedroom_val_lmdb", "test_lmdb")] == ["bedroom/v", "test/t"]


def test_objects_are_folders_of_their_names(tmp_path: Path) -> None:
    """LSUN's objects have no ``_lmdb`` and no split; they may lie deeper, or behind a link."""
    (tmp_path / "lsun" / "objects" / "car").mkdir(parents=True)
    write(tmp_path / "lsun" / "objects" / "car" / "car", {"a": picture(1)})
    write(tmp_path / "elsewhere", {"b": picture(2), "c": picture(3)})
    (tmp_path / "lsun" / "cat").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "lsun" / "bedroom_train_lmdb", {"d": picture(4)})
    (tmp_path / "lsun" / "__MACOSX").mkdir()
    write(tmp_path / "lsun" / "__MACOSX" / "dog", {"x": b""})
    source = Lsun(tmp_path / "lsun")
    assert source.classes == ("bedroom", "car", "cat")
    assert [source[index].origin for index in range(4)] == ["bedroom/d", "car/a", "cat/b", "cat/c"]
    chosen = Lsun(tmp_path / "lsun", ("cat", "car"))
    assert [(chosen[index].label, chosen[index].origin) for index in range(3)] == [
        (0, "cat/b"),
        (0, "cat/c"),
        (1, "car/a"),
    ]
    for alone in (Lsun(tmp_path / "lsun" / "objects" / "car" / "car"), Lsun(tmp_path / "lsun", ("car",))):
        assert (len(alone), alone.classes, alone[0].label) == (1, (), None)
    write(tmp_path / "lsun" / "objects" / "bedroom_train_lmdb", {"e": picture(5)})
    with pytest.raises(
        InputError, match=r"holds the same category twice: .*/lsun/bedroom_train_lmdb and .*/objects/bed"
    ):
        len(Lsun(tmp_path / "lsun", split="all"))


def test_a_category_and_a_key_that_are_not_utf8(tmp_path: Path) -> None:
    for name in ("caf\udce9", "tea"):
        folder = tmp_path / "raw" / name
        folder.mkdir(parents=True)
        with lmdb.open(os.fsencode(folder), map_size=1 << 20) as database, database.begin(write=True) as transaction:
            transaction.put(b"k\xe9\n", picture(7))
    source = Lsun(tmp_path / "raw")
    assert source.classes == ("caf\\xe9", "tea")
    item = source[0]
    assert (item.origin, item.label, item.attributes) == ("caf\\xe9/k\\xe9\\n", 0, {"file": "k\\xe9\\n"})


def test_a_category_that_cannot_be_read_is_told(raw: Path, tmp_path: Path) -> None:
    (raw / "cat").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"^cat cannot be read \(No such file or directory\)\. --skip-bad"):
        build(Lsun(raw), tmp_path / "out", Options(size=32), workers=1)
    assert build(Lsun(raw), tmp_path / "out", Options(size=32, skip_bad=True), workers=1).skipped == ("cat",)


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "cat.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"holds no LMDB of the split 'train'; it has cat\.zip to unpack\."):
        len(Lsun(tmp_path))


def test_what_is_not_there(raw: Path, tmp_path: Path) -> None:
    for source, message in [
        (Lsun(tmp_path / "nowhere"), "is not a folder"),
        (Lsun(raw / "bedroom_train_lmdb" / "data.mdb"), "is not a folder"),
        (Lsun(raw / "empty_lmdb"), "holds no LMDB .* it has no folder"),
        (Lsun(raw, ("bedroom", "kitchen")), r"holds no category 'kitchen'; it has bedroom, church_outdoor\."),
        (Lsun(raw / "bedroom_train_lmdb", ("kitchen",)), r"'kitchen'; it has bedroom\."),
        (Lsun(write(tmp_path / "none", {})), "is empty"),
    ]:
        with pytest.raises(InputError, match=message):
            len(source)
    (raw / "bedroom_val_lmdb" / "data.mdb").unlink()
    with pytest.raises(InputError, match="no LMDB of the split 'val'; it has bedroom_train_lmdb, church_outdoor_train"):
        len(Lsun(raw, split="val"))


def test_broken_databases(tmp_path: Path) -> None:
    images = {f"{number:03d}": os.urandom(9000) for number in range(50)}
    cut, empty, text, corrupt = (tmp_path / name for name in ("cut", "empty", "text", "corrupt"))
    for folder in (cut, empty, text, corrupt):
        write(folder, images)
    size = (cut / "data.mdb").stat().st_size
    os.truncate(cut / "data.mdb", size // 2)
    os.truncate(empty / "data.mdb", 0)
    (text / "data.mdb").write_bytes(b"<html>Not Found</html>" * 999)
    with (corrupt / "data.mdb").open("r+b") as file:  # all but the two pages at the head
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))
    for folder, message in [(cut, f"is cut off: it has {size // 2} of {size}"), (empty, "opened"), (text, "opened")]:
        with pytest.raises(InputError, match=rf"{folder}/data\.mdb .*{message}"):
            len(Lsun(folder))
    with pytest.raises(InputError, match="is corrupt"):
        Lsun(corrupt)[0]


def test_a_value_that_is_no_image_is_named(tmp_path: Path) -> None:
    source = Lsun(write(tmp_path / "kitchen_train_lmdb", {"k": b"hello", "l": picture(1)[:-9]}))
    with pytest.raises(BadImage, match="kitchen/k cannot be decoded: not an image"):
        source[0]
    with pytest.raises(BadImage, match="kitchen/l cannot be decoded"):
        source[1]


def test_keys_take_little_more_memory_than_their_bytes(tmp_path: Path) -> None:
    """100,000 keys like LSUN's; a list of bytes objects would take 8 MB."""
    keys = (hashlib.sha1(str(number).encode()).hexdigest() for number in range(100_000))
    folder = write(tmp_path / "bedroom_train_lmdb", dict.fromkeys(keys, b"x")).resolve()
    lsun._open(folder)
    tracemalloc.start()
    lsun._keys(folder)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 100_000 * 40 < held <= peak < 100_000 * 48 * 1.3


def test_real_bedrooms_as_jpeg_and_webp(real_data: Path, tmp_path: Path) -> None:
    files = sorted((real_data / "bedrooms").glob("*.jpg"))[:16]
    jpegs = {path.stem: path.read_bytes() for path in files}
    webps = {}
    for name, data in jpegs.items():
        file = io.BytesIO()
        with Image.open(io.BytesIO(data)) as image:
            image.save(file, "webp", quality=75)
        webps[name] = file.getvalue()
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw" / "bedroom_train_lmdb", webps)
    write(tmp_path / "raw" / "dining_room_train_lmdb", jpegs)
    source = Lsun(tmp_path / "raw")
    for index in range(16):
        webp, jpeg = source[index], source[16 + index]
        assert (webp.origin, jpeg.origin) == (f"bedroom/{index:04d}", f"dining_room/{index:04d}")
        difference = np.abs(np.asarray(webp.image, float) - np.asarray(jpeg.image, float))
        assert 0 < difference.mean() < 8
    options = Options(size=32, shard_samples=8)
    manifest = build(source, tmp_path / "out", options, workers=2)
    assert (manifest.samples, manifest.classes, len(manifest.shards)) == (32, ("bedroom", "dining_room"), 4)


def test_from_the_command_line(run: Run, raw: Path, tmp_path: Path) -> None:
    command = ("build", "lsun", raw, tmp_path / "out", "--size", "32", "--categories")
    done = run(*command, " church_outdoor,")
    assert done.returncode == 0, done.stderr
    assert "2 of 32x32x3, jpg" in done.stdout
    wrong = run(*command, "attic")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert "'attic'" in wrong.stderr
