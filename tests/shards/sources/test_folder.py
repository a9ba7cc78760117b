from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from shards.sources import folder
from shards.sources.folder import Folder
from shards.sources.source import BadImage
from tests.shards.conftest import Run
from tests.support.make import index_tar

RED = (200, 30, 60)


def save(path: Path, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_the_digest_is_that_of_the_paths(tmp_path: Path) -> None:
    for number, name in enumerate(("rose/0.png", "tulip/1.png")):
        for place in ("here", "there"):
            save(tmp_path / place / name, (number, 0, 0))
    (tmp_path / "there" / "rose" / "notes.txt").touch()
    digest = Folder(tmp_path / "here").digest()
    assert digest == Folder(tmp_path / "there").digest()
    (tmp_path / "there" / "rose").rename(tmp_path / "there" / "roses")
    folder._listing.cache_clear()
    assert digest != Folder(tmp_path / "there").digest()


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


def test_other_processes_read_picked_items_without_listing_the_folder(tmp_path: Path) -> None:
    for name in ("tulip/1.png", "rose/2.png", "rose/3.png"):
        save(tmp_path / name)
    picked = pickle.dumps(Folder(tmp_path).pick(np.array([2, 0])))
    (tmp_path / "rose" / "3.png").unlink()
    save(tmp_path / "daisy" / "0.png")
    code = "import pickle, sys; x = pickle.load(sys.stdin.buffer); print(len(x), x[0].origin, x[0].label, x[1].origin)"
    done = subprocess.run([sys.executable, "-c", code], input=picked, capture_output=True, check=True)
    assert done.stdout.decode().split() == ["2", "tulip/1.png", "1", "rose/2.png"]


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


def files(source: Folder) -> list[str]:
    return [source[index].origin for index in range(len(source))]


def test_images_are_known_by_their_content_if_the_suffix_tells_nothing(tmp_path: Path) -> None:
    kept = ("a.jfif", "b.JPE", "c.jpg?w=640", "d", "e.JPG:large", "f.heic", "g.png?x.txt", "h.AVIF", "i.mpo",
            "j.jpg%3Fw=1", "k.2020.01.05", "l\nm.png", "o", "\N{CAT} \u3000.jpg")  # fmt: skip
    for name in kept:
        kind = {"h": "avif", "b": "jpeg", "d": "gif", "e": "bmp", "j": "webp", "o": "tiff"}.get(name[0], "png")
        Image.new("RGB", (40, 30), RED).save(tmp_path / name, kind)
    (tmp_path / "real.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "raw.cr2").write_bytes(b"II*\0\x10\0\0\0CR\2\0")
    (tmp_path / "notes").write_text("BMW and P5 are no images")
    (tmp_path / "half.jpg.part").write_bytes((tmp_path / "i.mpo").read_bytes())
    (tmp_path / "empty").touch()
    for name in ("clip.mp4", "1.txt", "2.txt", "n.\udce9"):
        (tmp_path / name).write_text("text")
    os.mkfifo(tmp_path / "pipe")
    source = Folder(tmp_path)
    assert sorted(files(source)) == sorted(name.replace("\n", "\\n") for name in kept)
    assert source.passed_over == {
        "without suffix": 3, ".txt": 2, ".heic": 1, ".cr2": 1, ".part": 1, ".mp4": 1, ".\\xe9": 1,
    }  # fmt: skip
    assert list(source.passed_over)[:2] == ["without suffix", ".txt"]


def test_what_systems_leave_beside_images_is_no_class(tmp_path: Path) -> None:
    save(tmp_path / "rose" / "1.jpg")
    save(tmp_path / "lilac" / "2.jpg")
    for name in ("@eaDir/rose/1.jpg/THUMB_M.jpg", "rose/@eaDir/1.jpg", "rose/.thumbnails/1.jpg",
                 "lost+found/x.jpg", "__MACOSX/rose/._1.jpg", "__MACOSX/rose/1.jpg", "rose/._1.jpg",
                 ".ipynb_checkpoints/1.jpg", "#recycle/a.jpg", "$RECYCLE.BIN/a.jpg", ".Trash-0/a.jpg",
                 "#snapshot/a.jpg", "@__thumb/a.jpg", "LOST.DIR/a.jpg", "FOUND.000/a.jpg"):  # fmt: skip
        save(tmp_path / name)
    for name in ("Thumbs.db", ".DS_Store", "rose/desktop.ini", "rose/THUMBS.DB"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    (tmp_path / "empty").mkdir()
    source = Folder(tmp_path)
    assert (files(source), source.classes) == (["lilac/2.jpg", "rose/1.jpg"], ("lilac", "rose"))
    assert source.passed_over == {}


def test_files_that_cannot_be_read_are_bad_images(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "c.jpg").symlink_to("c.jpg")
    (tmp_path / "d").symlink_to("/nowhere/folder")
    (tmp_path / "e.txt").symlink_to("nowhere")
    (tmp_path / "f.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "g.jpg")
    with (tmp_path / "h.jpg").open("wb") as file:
        file.truncate(2 << 30)
    source = Folder(tmp_path)
    assert len(source) == 6
    assert source.unreadable == {"d": "No such file or directory"}  # no image, which would hide the classes
    reasons = ["No such file", "Too many levels of symbolic links", "not an image", "not an image",
               "has 2,147,483,648 bytes"]  # fmt: skip
    for index, reason in enumerate(reasons, 1):
        with pytest.raises(BadImage, match=reason):
            source[index]
    (tmp_path / "a.jpg").unlink()  # not a bad image, but a change during the build
    with pytest.raises(FileNotFoundError):
        source[0]


def test_nesting_deeper_than_recursion_and_than_a_path(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    here = Path.cwd()
    try:
        for name in (tmp_path, *["d"] * 1050, *["x" * 250] * 10):
            Path(name).mkdir(exist_ok=True)
            os.chdir(name)
        os.chdir(here)
        source = Folder(tmp_path)
        assert files(source) == ["a.png"]
        assert list(source.unreadable.values()) == ["File name too long"]
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)  # pytest's own removal is recursive


def test_a_folder_of_other_files_says_what_it_has(tmp_path: Path) -> None:
    for name in ("1.heic", "2.heic", "clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no images \(.*\); it has 2 \.heic, 1 \.mp4\."):
        len(Folder(tmp_path))


def test_names_that_are_not_utf8_from_end_to_end(run: Run, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("caf\udce9/a\udcff.png", "caf\u00e9/b\nc.png", "tea/d.png"):
        save(raw / name)
    (raw / "tea" / "broken\udce9.png").write_text("no image")
    stopped = run("build", "folder", raw, out, "--size", "32", "--upscale", "--workers", "1")
    assert stopped.returncode == 2 and "tea/broken\\xe9.png" in stopped.stderr and stopped.stderr.count("\n") == 1
    done = run("build", "folder", raw, out, "--size", "32", "--upscale", "--skip-bad", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "3: caf\u00e9, caf\\xe9, tea" in done.stdout
    manifest = read_manifest(out)
    assert (manifest.classes, manifest.skipped) == (("caf\u00e9", "caf\\xe9", "tea"), ("tea/broken\\xe9.png",))
    text = (out / "manifest.json").read_text() + (out / "shard-000000.tar").read_bytes().decode("latin-1")
    assert "\\ud" not in text  # surrogates, which other readers of JSON refuse
    assert r'{"file": "caf\\xe9/a\\xff.png"}' in text
    assert len(index_tar(out / "shard-000000.tar")) == 3
    assert run("info", out).returncode == run("verify", out).returncode == 0


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    """As a user whom permissions stop: root without the capability to ignore them, if the tests run as root."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("rose/1.png", "rose/2.png", "locked/3.png"):
        save(raw / name)
    (raw / "rose" / "2.png").chmod(0)
    (raw / "locked").chmod(0)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-m", "shards", "build", "folder", raw, out, "--size", "32", "--workers", "1"]
    try:
        stopped = subprocess.run(command, capture_output=True, text=True, check=False)
        done = subprocess.run([*command, "--skip-bad", "--upscale"], capture_output=True, text=True, check=False)
    finally:
        (raw / "locked").chmod(0o700)
    expected = "error: locked/ cannot be read (Permission denied). --skip-bad leaves such folders out.\n"
    assert (stopped.returncode, stopped.stderr) == (2, expected)
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "manifest.json").read_text())["skipped"] == ["locked/", "rose/2.png"]


def test_what_was_passed_over_is_said_and_recorded(run: Run, tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    save(raw / "a.png")
    for name in ("b.heic", "c.heic", "d.json"):
        (raw / name).write_bytes(b"{}")
    done = run("build", "folder", raw, out, "--size", "32", "--upscale", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "not images  2 .heic, 1 .json\n" in done.stdout
    assert read_manifest(out).build["not images"] == {".heic": 2, ".json": 1}
    (raw / "e.json").touch()  # does not make it another build
    assert build(Folder(raw / "."), out, Options(size=32, format="jpg", upscale=True)).samples == 1
