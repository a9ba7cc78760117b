"""Builds with real worker processes and real faults. A worker takes a second to start, so tests share builds."""

from __future__ import annotations

import gc
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.codec import fit
from shards.format.manifest import Manifest, read_manifest
from shards.sources.faces import Faces
from shards.sources.folder import Folder
from tests.support.make import index_tar

COUNT = 50
FACES = [sys.executable, "-m", "shards", "build", "faces"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty images of noise in two classes."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for number in range(COUNT):
        path = raw / ("rose" if number % 2 else "tulip") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)
    return raw


OPTIONS = Options(size=32, shard_samples=13, format="png", seed=5)


@pytest.fixture(scope="module")
def built(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "new" / "out"
    build(Folder(raw), out, OPTIONS, workers=2)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copy_of(raw: Path, to: Path) -> Path:
    return Path(shutil.copytree(raw, to))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(what: str, condition: object, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not happen in {seconds} s"
        time.sleep(0.02)


def start_faces(out: Path, count: int = 300) -> subprocess.Popen[str]:
    """Start a build of some seconds on two workers and wait until two of its shards are finished."""
    process = subprocess.Popen(
        [*FACES, str(out), "--count", str(count), "--shard-samples", "30", "--size", "32", "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    until("two shards", lambda: len(list(out.glob(".shard-*.npz"))) >= 2 or process.poll() is not None)
    assert process.poll() is None
    return process


def test_what_is_built(built: Path, raw: Path) -> None:
    assert sorted(contents(built)) == ["index.npy", "manifest.json", *(f"shard-00000{n}.tar" for n in range(4))]
    manifest = read_manifest(built)
    assert manifest.counts.tolist() == [13, 13, 13, 11]
    assert (manifest.source, manifest.shape, manifest.classes) == ("folder", (32, 32, 3), ("rose", "tulip"))
    assert str(raw) not in (built / "manifest.json").read_text()
    rows = np.concatenate([index_tar(built / shard.name) for shard in manifest.shards])
    assert np.array_equal(np.load(built / "index.npy", allow_pickle=False), rows)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_it(built: Path, raw: Path) -> None:
    urls = [str(path) for path in sorted(built.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(COUNT)]
    files = [sample["json"]["file"] for sample in samples]
    assert sorted(files) == sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.png"))
    assert files != sorted(files)
    for sample in samples:
        assert sample["cls"] == ("rose", "tulip").index(sample["json"]["file"].partition("/")[0])
        with Image.open(raw / sample["json"]["file"]) as image:
            assert np.array_equal(np.asarray(sample["png"]), fit(image, 32, 3))
    gc.collect()  # webdataset leaves its files open; the warnings are to be raised here, where they are ignored


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_do_not_depend_on_workers_or_place(built: Path, raw: Path, tmp_path: Path, workers: int) -> None:
    build(Folder(copy_of(raw, tmp_path / "raw")), tmp_path / "out", OPTIONS, workers)
    assert contents(tmp_path / "out") == contents(built)


def test_limit_takes_the_first_of_the_same_order(built: Path, raw: Path, tmp_path: Path) -> None:
    few = Options(size=32, shard_samples=13, format="png", seed=5, limit=26)
    manifest = build(Folder(raw), tmp_path / "out", few, workers=1)
    assert manifest.shards == read_manifest(built).shards[:2]


def test_a_finished_build_is_only_read(built: Path, raw: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [built, *built.iterdir()]}
    assert build(Folder(raw), built, OPTIONS) == read_manifest(built)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match=r"was built with other options: size was 32, is 64, seed was 5, is 0"):
        build(Folder(raw), built, Options(shard_samples=13, format="png"))
    with pytest.raises(InputError, match="source was folder, is faces"):
        build(Faces(50), built, OPTIONS)


def test_a_folder_of_something_else_is_refused(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("\\end{document}")
    with pytest.raises(InputError, match=r"contains other files, such as thesis\.tex"):
        build(Folder(raw), tmp_path, OPTIONS)
    with pytest.raises(InputError, match="is not a folder"):
        build(Folder(raw), tmp_path / "thesis.tex", OPTIONS)
    with pytest.raises(InputError, match="/proc/self/out: "):
        build(Folder(raw), Path("/proc/self/out"), OPTIONS)


def test_one_bad_image_stops_the_build_by_name_and_can_be_left_out(raw: Path, tmp_path: Path) -> None:
    bad = copy_of(raw, tmp_path / "raw")
    (bad / "rose" / "text.jpg").write_text("hello")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"rose/text\.jpg cannot be decoded: not an image in any.* --skip-bad leaves"):
        build(Folder(bad), out, OPTIONS, workers=1)
    records = list(out.glob(".shard-*.npz"))  # one worker has finished some; of two, neither may have
    assert records
    for path in records:  # as in earlier versions, whose unfinished builds can be resumed
        with np.load(path, allow_pickle=False) as arrays:
            assert set(arrays.files) == {"rows", "facts"}
    with pytest.raises(InputError, match=r"unfinished build with other options: size was 32, is 64\. Finish"):
        build(Folder(bad), out, Options(size=64, shard_samples=13, format="png", seed=5))
    with pytest.raises(InputError, match=r"folder\.raw was .*, is "):
        build(Folder(copy_of(bad, tmp_path / "other")), out, OPTIONS)
    manifest = build(Folder(bad), out, Options(size=32, shard_samples=13, format="png", seed=5, skip_bad=True))
    assert manifest.skipped == ("rose/text.jpg",)
    assert manifest.samples == COUNT
    assert not list(out.glob(".*"))


def test_small_images_and_shards_without_any_sample(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number, size in enumerate((20, 40, 20)):
        Image.new("RGB", (size, 40), "red").save(tmp_path / "raw" / f"{number}.png")
    source = Folder(tmp_path / "raw")
    with pytest.raises(InputError, match=r"\.png is 20x40 pixels, smaller than 32x32; --upscale enlarges"):
        build(source, tmp_path / "out", Options(size=32, shard_samples=1), workers=1)
    kept = build(source, tmp_path / "kept", Options(size=32, shard_samples=1, skip_bad=True), workers=1)
    assert (kept.samples, sorted(kept.skipped)) == (1, ["0.png", "2.png"])
    assert [path.name for path in (tmp_path / "kept").glob("*.tar")] == [kept.shards[0].name]
    everything = build(source, tmp_path / "out", Options(size=32, shard_samples=1, upscale=True), workers=1)
    assert everything.samples == 3
    (tmp_path / "raw" / "1.png").unlink()
    with pytest.raises(InputError, match="None of the 2 images can be used"):
        build(uncached(tmp_path / "raw"), tmp_path / "none", Options(size=32, skip_bad=True), workers=1)


def uncached(raw: Path) -> Folder:
    """The same folder by another path, because listings are cached per process."""
    return Folder(raw / ".." / raw.name)


def test_numbers_out_of_range(raw: Path, tmp_path: Path) -> None:
    for options in ({"shard_samples": 0}, {"limit": 0}, {"seed": -1}, {"size": 0}):
        with pytest.raises(InputError, match=f"--{next(iter(options)).replace('_', '-')} is"):
            Options(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--workers is 0"):
        build(Folder(raw), tmp_path / "out", OPTIONS, workers=0)
    assert not (tmp_path / "out").exists()


def test_killed_worker_then_killed_build_then_the_rest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_faces(out)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "error: A build process was killed by SIGKILL" in errors
    assert "Traceback" not in errors
    done = [out / f"{record.stem[1:]}.tar" for record in out.glob(".shard-*.npz")]  # only tars with records
    kept = {path: path.stat().st_mtime_ns for path in done}

    process = start_faces(out)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    until("orphans leaving", lambda: not any(map(alive, workers)))

    options = Options(size=32, shard_samples=30)
    manifest = build(Faces(300), out, options)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    assert not list(out.glob(".*"))
    assert manifest == build(Faces(300), tmp_path / "whole", options)
    assert contents(out) == contents(tmp_path / "whole")


def test_interrupted_from_the_terminal(tmp_path: Path) -> None:
    process = start_faces(tmp_path / "out", 5000)  # far from done, on a busy machine too
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "interrupted; run the same command to go on\n"
    assert not any(map(alive, workers))
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_two_builds_of_one_folder(raw: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shards", "build", "folder", str(raw), str(tmp_path / "out"), "--size", "32"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert not list((tmp_path / "out").glob(".*"))


def test_a_disk_that_fills_up(raw: Path, tmp_path: Path) -> None:
    """On a real small file system if it can be mounted (as root), else with a limit on the size of files."""
    out, npy = tmp_path / "out", Options(size=32, shard_samples=13, format="npy")
    out.mkdir()
    mount = ["sh", "-c", f"mount -t tmpfs -o size=128k tmpfs {out}"]
    if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
        try:
            _, errors = run_cli(raw, out, npy)
            assert f"error: {out}" in errors and ": No space left on device. Finished shards stay" in errors
            assert (out / "shard-000000.tar").exists()
            subprocess.run(["mount", "-o", "remount,size=4m", str(out)], check=True)
            assert build(Folder(raw), out, npy, workers=1).samples == COUNT
        finally:
            subprocess.run(["umount", str(out)], check=True)
    else:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
        try:
            _, errors = run_cli(raw, out, npy)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert f"error: {out}: File too large. Finished shards stay" in errors
        assert build(Folder(raw), out, npy, workers=1).samples == COUNT


def run_cli(raw: Path, out: Path, options: Options) -> tuple[int, str]:
    flags = ["--size", str(options.size), "--shard-samples", str(options.shard_samples), "--workers", "1"]
    command = [sys.executable, "-m", "shards", "build", "folder", str(raw), str(out), *flags]
    done = subprocess.run([*command, "--format", str(options.format)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_manifests_name_every_choice(built: Path) -> None:
    assert json.loads((built / "manifest.json").read_text())["build"] == {
        "items": COUNT,
        "size": 32,
        "format": "png",
        "shard_samples": 13,
        "limit": None,
        "seed": 5,
        "upscale": False,
        "folder.channels": 3,
    }


@pytest.mark.parametrize("size", [128, 256])
def test_real_images_of_each_kind(real_data: Path, tmp_path: Path, size: Literal[128, 256]) -> None:
    options = Options(size=size, limit=24)
    manifest: Manifest = build(Folder(real_data / "bedrooms"), tmp_path / "out", options)
    assert (manifest.samples, manifest.format, manifest.shape) == (24, "jpg", (size, size, 3))


def test_a_url_is_no_folder_to_build_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a folder ``s3:`` here."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="s3://bucket/x is a URL, and only folders can be written to"):
        build(Faces(4), Path("s3://bucket/x"), OPTIONS)
    assert not list(tmp_path.iterdir())
