from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image

from shards.common.errors import InputError
from shards.sources.folder import Folder

RED = (200, 30, 60)


def save(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_paths_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "deep/d.bmp", ".hidden.png", ".git/e.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    source = pickle.loads(pickle.dumps(Folder(tmp_path)))
    items = [source[index] for index in range(len(source))]
    assert [item.origin for item in items] == ["a.jpg", "b.PNG", "deep/d.bmp", "deep/er/c.webp"]
    assert [item.attributes for item in items][2] == {"file": "deep/d.bmp"}
    assert source.classes == ()  # images beside the sub-folder: no classes
    assert all(item.label is None for item in items)


def test_first_level_sub_folders_are_classes(tmp_path: Path) -> None:
    for name in ("tulip/1.png", "rose/old/2.png", "rose/3.png"):
        save(tmp_path / name)
    source = Folder(tmp_path)
    assert source.classes == ("rose", "tulip")
    assert [(source[index].origin, source[index].label) for index in range(3)] == [
        ("rose/3.png", 0),
        ("rose/old/2.png", 0),
        ("tulip/1.png", 1),
    ]


def test_linked_folders_count_and_loops_end(tmp_path: Path) -> None:
    save(tmp_path / "store" / "1.png")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rose").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "up").symlink_to(tmp_path / "raw")
    assert Folder(tmp_path / "raw")[0].origin == "rose/1.png"
    assert len(Folder(tmp_path / "raw")) == 1


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        len(Folder(tmp_path))
    with pytest.raises(InputError, match="is not a folder"):
        len(Folder(tmp_path / "nowhere"))
