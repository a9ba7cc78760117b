"""Near-duplicates, made from drawn faces and real bedrooms, in builds with real worker processes."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shards.building.build import build
from shards.building.dedup import PART, TOLERANCE, colour_cells, find_originals, perceptual_hash
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.codec import fit
from shards.format.manifest import read_manifest
from shards.sources.faces import Faces, sample_face
from shards.sources.folder import Folder
from shards.sources.portrait import draw_face

COUNT = 30
OPTIONS = Options(size=32, shard_samples=8, format="png", seed=5, dedup=True)


def recompressed(image: Image.Image, quality: int = 90, scale: float = 1.0) -> Image.Image:
    """``image`` recompressed, and resized by ``scale``."""
    file = io.BytesIO()
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(file, "jpeg", quality=quality)
    return Image.open(file)


def originals_of(images: Iterable[Image.Image]) -> list[int]:
    """For each image the index of the first that it duplicates, or its own."""
    pixels = [fit(image, 64, 3, upscale=True) for image in images]
    hashes = np.array([perceptual_hash(image) for image in pixels], np.uint64)
    return list(find_originals(hashes, np.array([colour_cells(image) for image in pixels])))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty faces ``a``; exact copies ``b`` of every third, smaller ones ``c`` of every tenth where the hash holds."""
    raw = tmp_path_factory.mktemp("raw")
    for number in range(COUNT):
        face = draw_face(sample_face(0, number))
        face.save(raw / f"a{number:02d}.png")
        if number % 3 == 0:
            shutil.copy(raw / f"a{number:02d}.png", raw / f"b{number:02d}.png")
        if number % 10 == 0:
            recompressed(face, scale=0.75).save(raw / f"c{number:02d}.png")
    return raw


@pytest.fixture(scope="module")
def built(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build(Folder(raw), out, OPTIONS, workers=1)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def listed(folder: Path) -> list[tuple[str, str]]:
    lines = map(json.loads, (folder / "duplicates.jsonl").read_text().splitlines())
    return [(line["dropped"], line["kept"]) for line in lines]


def files(folder: Path) -> list[str]:
    """Which raw images the shards hold."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            found += [json.load(member)["file"] for member in members if member is not None]
    return found


@pytest.mark.parametrize(("quality", "scale"), [(90, 1.0), (75, 1.0), (85, 0.5), (95, 1.5)])
def test_most_near_duplicates_of_real_images_have_equal_hashes(real_data: Path, quality: int, scale: float) -> None:
    images = [Image.open(path).convert("RGB") for path in sorted((real_data / "bedrooms").glob("*.jpg"))]
    count = len(images)
    first = originals_of([*images, *(recompressed(image, quality, scale) for image in images)])
    assert first[:count] == list(range(count))
    copies = np.array(first[count:])
    assert np.mean(copies == np.arange(count)) > 0.75
    assert ((copies == np.arange(count)) | (copies == count + np.arange(count))).all()


def test_faces_of_one_hash_but_other_colours_stay() -> None:
    faces = Faces(600)
    images = [faces[index].image for index in range(len(faces))]
    hashes = {perceptual_hash(fit(image, 64, 3)) for image in images}
    assert len(hashes) < len(faces)  # or this tests nothing
    assert max(hashes) >= 1 << 63  # all 64 bits
    assert originals_of(images) == list(range(len(faces)))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, TOLERANCE, TOLERANCE + 1, 3 * TOLERANCE])), max_size=30)
)
def test_originals_are_those_of_a_plain_loop(images: list[tuple[int, int]]) -> None:
    kept: list[int] = []
    expected = []
    for row, (code, cell) in enumerate(images):
        near = [one for one in kept if images[one][0] == code and abs(images[one][1] - cell) <= TOLERANCE]
        kept += [] if near else [row]
        expected.append(near[0] if near else row)
    hashes = np.array([code for code, _ in images], np.uint64)
    cells = np.array([[7, cell] for _, cell in images], np.uint8).reshape(-1, 2)
    assert list(find_originals(hashes, cells)) == expected


def test_grey_images_and_plain_ones_have_a_hash() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64, 1).astype(np.uint8)
    assert perceptual_hash(ramp) == perceptual_hash(ramp.repeat(3, 2))
    assert perceptual_hash(np.zeros((32, 32, 3), np.uint8)) == perceptual_hash(np.zeros((64, 64, 1), np.uint8))


def test_duplicates_are_dropped_and_listed(built: Path, raw: Path) -> None:
    pairs = listed(built)
    dropped = [name for name, _ in pairs]
    assert pairs == sorted(pairs)
    assert {f"b{number:02d}.png" for number in range(0, COUNT, 3)} <= set(dropped)
    assert any(name.startswith("c") for name in dropped)
    assert all(name[1:] == kept[1:] and kept[0] == "a" for name, kept in pairs)  # the first stays, nothing else goes
    assert sorted([*files(built), *dropped]) == sorted(path.name for path in raw.iterdir())
    manifest = read_manifest(built)
    assert (manifest.build["dedup"], manifest.build["duplicates"]) == (True, len(dropped))
    assert manifest.build["items"] == len(list(raw.iterdir())) == manifest.samples + len(dropped)
    assert not list(built.glob(".*"))


def test_bytes_do_not_depend_on_workers(built: Path, raw: Path, tmp_path: Path) -> None:
    build(Folder(raw), tmp_path / "out", OPTIONS, workers=3)
    assert contents(tmp_path / "out") == contents(built)


def test_what_is_left_is_built_as_if_there_had_been_nothing_else(built: Path, raw: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in files(built):
        shutil.copy(raw / name, tmp_path / "raw")
    alone = build(Folder(tmp_path / "raw"), tmp_path / "out", Options(size=32, shard_samples=8, format="png", seed=5))
    assert alone.shards == read_manifest(built).shards
    assert not {"dedup", "duplicates"} & set(alone.build)


def test_limit_takes_the_first_of_what_is_left(built: Path, raw: Path, tmp_path: Path) -> None:
    few = Options(size=32, shard_samples=8, format="png", seed=5, dedup=True, limit=16)
    manifest = build(Folder(raw), tmp_path / "out", few, workers=1)
    assert manifest.shards == read_manifest(built).shards[:2]


def test_a_finished_build_is_only_read(built: Path, raw: Path) -> None:
    before = contents(built)
    assert build(Folder(raw), built, OPTIONS) == read_manifest(built)
    with pytest.raises(InputError, match="was built with other options: dedup was True, is None"):
        build(Folder(raw), built, Options(size=32, shard_samples=8, format="png", seed=5))
    assert contents(built) == before


def test_bad_images_are_left_to_the_build(raw: Path, tmp_path: Path) -> None:
    bad, out = Path(shutil.copytree(raw, tmp_path / "raw")), tmp_path / "out"
    (bad / "0.png").write_text("hello")
    Image.open(raw / "a00.png").resize((30, 30)).save(bad / "1.png")  # too small to build, so nothing is its duplicate
    with pytest.raises(InputError, match=r"0\.png cannot be decoded: not an image in any.* --skip-bad leaves"):
        build(Folder(bad), out, OPTIONS, workers=1)
    manifest = build(Folder(bad), out, Options(**{**vars(OPTIONS), "skip_bad": True}), workers=1)
    assert sorted(manifest.skipped) == ["0.png", "1.png"]
    assert "a00.png" in files(out)


def test_nothing_but_bad_images(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "0.png").write_text("hello")
    with pytest.raises(InputError, match="None of the 1 images can be used"):
        build(Folder(tmp_path / "raw"), tmp_path / "out", Options(size=32, skip_bad=True, dedup=True), workers=1)


def test_killed_while_hashing_and_while_building(tmp_path: Path) -> None:
    """Hashes are reused, and the result is the same."""
    raw, out, rng = tmp_path / "raw", tmp_path / "out", np.random.default_rng(0)
    raw.mkdir()
    for number in range(PART + 100):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(raw / f"{number:04d}.png")
    shutil.copy(raw / "0003.png", raw / "0999.png")
    shutil.copy(raw / "0003.png", raw / f"{PART + 50:04d}.png")
    command = [sys.executable, "-m", "shards", "build", "folder", str(raw), str(out), "--dedup", "--workers", "2"]
    command += ["--size", "32", "--shard-samples", "64"]
    hashes = kill_when(command, out, ".hashes-*.npz")
    assert not list(out.glob("*.tar"))
    kill_when(command, out, ".shard-*.npz")
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in hashes.items())
    assert len(times(out, ".hashes-*.npz")) == 2
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Looking for" not in done.stderr
    assert "Left out 2 near-duplicates (duplicates.jsonl)." in done.stderr
    assert "duplicates  2 left out" in done.stdout
    assert listed(out) == [("0999.png", "0003.png"), (f"{PART + 50:04d}.png", "0003.png")]
    build(Folder(raw), tmp_path / "whole", Options(size=32, shard_samples=64, dedup=True), workers=2)
    assert contents(out) == contents(tmp_path / "whole")


def times(out: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.glob(pattern)}


def kill_when(command: list[str], out: Path, pattern: str) -> dict[Path, int]:
    """Start ``command``, kill it when a file matches ``pattern``; returns all such files and their times."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not times(out, pattern):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its workers exit at their next report, when the connection is closed
    return times(out, pattern)
