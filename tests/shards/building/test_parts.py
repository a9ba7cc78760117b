"""Builds in parts with real processes. A worker takes a second to start, so tests share builds."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.building import parts
from shards.building.build import build
from shards.building.parts import Share, build_part, join
from shards.building.publish import publish
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import MANIFEST, Manifest, read_manifest
from shards.sources import celeba, folder
from shards.sources.celeba import Celeba
from shards.sources.faces import Faces
from shards.sources.folder import Folder
from tests.shards.building.test_build import contents, until
from tests.shards.conftest import Run

OPTIONS = Options(size=32, shard_samples=13, format="npy", seed=5, skip_bad=True)
BROKEN = "tulip/041.png"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty images in two classes, one of which is broken: four shards."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for number in range(50):
        path = raw / ("tulip" if number % 2 else "rose") / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), np.uint8)).save(path)
    (raw / BROKEN).write_text("hello")
    return raw


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set without parts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    build(Folder(raw), out, OPTIONS, workers=1)
    return out


@pytest.fixture
def half(raw: Path, tmp_path: Path) -> Path:
    """Part 1 of 2."""
    assert build_part(Folder(raw), tmp_path / "half", Share(1, 2), OPTIONS, workers=1) is None
    return tmp_path / "half"


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """The real refusal of the kernel, as on a full disk: no file may be larger than ``size`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def build_parts(raw: Path, out: Path, order: Sequence[int]) -> list[Manifest | None]:
    return [build_part(Folder(raw), out, Share(part, len(order)), OPTIONS, workers=1) for part in order]


@pytest.mark.parametrize("order", [[1], [2, 1], [3, 5, 2, 1, 4]])
def test_bytes_do_not_depend_on_parts(raw: Path, whole: Path, tmp_path: Path, order: list[int]) -> None:
    *others, last = build_parts(raw, tmp_path / "out", order)
    assert others == [None] * len(others) and last == read_manifest(whole)
    assert contents(tmp_path / "out") == contents(whole)
    assert last is not None and last.skipped == (BROKEN,)


def test_parts_at_once_and_twice(raw: Path, whole: Path, tmp_path: Path) -> None:
    """Some of them return when the data set is complete, and none fails."""
    out = tmp_path / "out"
    with ThreadPoolExecutor(3) as pool:
        shares = [Share(1, 2), Share(2, 2), Share(1, 2)]
        done = list(pool.map(lambda share: build_part(Folder(raw), out, share, OPTIONS, workers=1), shares))
    assert read_manifest(whole) in done
    assert contents(out) == contents(whole)


def test_each_part_reads_its_own_images_only(raw: Path, tmp_path: Path) -> None:
    """The broken image stops the one part that it belongs to."""
    strict = replace(OPTIONS, skip_bad=False)
    with pytest.raises(InputError, match=BROKEN):
        build_part(Folder(raw), tmp_path / "out", Share(1, 2), strict, workers=1)
    assert build_part(Folder(raw), tmp_path / "out", Share(2, 2), strict, workers=1) is None
    with pytest.raises(InputError, match=r"out lacks . of 4 shards, of part 1 of 2\. Build these, then join"):
        join(tmp_path / "out")


def test_shares_are_even_and_disjoint() -> None:
    for total, count in itertools.product((0, 1, 7, 8, 1000), (1, 2, 7, 9)):
        shares = [Share(part, count).shards(total) for part in range(1, count + 1)]
        assert sorted(itertools.chain(*shares)) == list(range(total))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("part", "parts", "message"),
    [
        (0, 2, r"--part is 0; it must be from 1 to --parts 2"),
        (3, 2, r"--part is 3; it must be from 1 to --parts 2"),
        (1, 0, r"--parts is 0; it must be at least 1"),
    ],
)
def test_a_part_that_does_not_exist(part: int, parts: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Share(part, parts)


def test_other_parts_are_refused_and_change_nothing(half: Path, raw: Path, tmp_path: Path) -> None:
    before, renamed = contents(half), tmp_path / "renamed"
    renamed.mkdir()
    for number, path in enumerate(sorted(raw.iterdir())):
        (renamed / f"{number}").symlink_to(path)
    for source, share, options, message in [
        (Folder(raw), Share(2, 3), OPTIONS, r"is built in 2 parts, not 3\. Give --parts 2, or build without --part"),
        (Folder(raw), Share(2, 2), replace(OPTIONS, size=64), r"with other options: size was 32, is 64\. Finish"),
        (Folder(raw), Share(2, 2), replace(OPTIONS, upscale=True), r"upscale was False, is True"),
        (Folder(raw, channels=1), Share(2, 2), OPTIONS, r"folder\.channels was 3, is 1"),
        (Folder(renamed), Share(2, 2), OPTIONS, r"folder\.raw was .*, is "),
        (Faces(50), Share(2, 2), OPTIONS, "source was folder, is faces"),
        (Folder(raw), Share(2, 2), replace(OPTIONS, dedup=True), "--dedup compares all images before the first shard"),
    ]:
        with pytest.raises(InputError, match=message):
            build_part(source, half, share, options, workers=1)
    with pytest.raises(InputError, match=r"half lacks 2 of 4 shards, of part 2 of 2\. Build"):
        join(half)
    after = contents(half)
    assert {name: data for name, data in after.items() if not name.endswith(".lock")} == {
        name: data for name, data in before.items() if not name.endswith(".lock")
    }


def test_copies_of_the_raw_images_with_other_classes_are_refused(half: Path, raw: Path) -> None:
    """As on nodes whose local folders of one name hold other images."""
    plan = half / ".parts.json"
    plan.write_text(plan.read_text().replace('"rose"', '"daisy"'))
    with pytest.raises(InputError, match=r"not those of the other parts in .*: classes was \('daisy'"):
        build_part(Folder(raw), half, Share(2, 2), OPTIONS, workers=1)
    plan.write_text("{}")
    with pytest.raises(InputError, match=r"parts\.json is not of this version of shardgan .*Delete it"):
        join(half)


OTHER_IMAGES = "other raw images: there were as many, but their names, labels or attributes differ"


def test_as_many_other_raw_images_under_the_same_path_are_refused(raw: Path, whole: Path, tmp_path: Path) -> None:
    """In a part as in a build without parts; and what was built of the first ones can be completed."""
    here, out = shutil.copytree(raw, tmp_path / "raw"), tmp_path / "out"
    assert build_part(Folder(here), out, Share(1, 2), OPTIONS, workers=1) is None
    (here / "rose" / "000.png").rename(here / "rose" / "999.png")
    folder._listing.cache_clear()
    for work in (build_part, build):
        share = (Share(2, 2),) if work is build_part else ()
        with pytest.raises(InputError, match=OTHER_IMAGES):
            work(Folder(here), out, *share, OPTIONS, workers=1)
    (here / "rose" / "999.png").rename(here / "rose" / "000.png")
    (here / "notes.txt").touch()
    folder._listing.cache_clear()
    with pytest.raises(InputError, match=r"not those of the other parts in .*: not images was None, is {'\.txt': 1}"):
        build_part(Folder(here), out, Share(2, 2), OPTIONS, workers=1)
    (here / "notes.txt").unlink()
    folder._listing.cache_clear()
    assert build_part(Folder(here), out, Share(2, 2), OPTIONS, workers=1)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("change", ["name", "attribute"])
def test_other_lists_of_celeba_are_refused(change: str, tmp_path: Path) -> None:
    images, attributes = tmp_path / "raw" / "img_align_celeba", tmp_path / "raw" / "list_attr_celeba.txt"
    images.mkdir(parents=True)
    names = [f"{number:06d}.png" for number in range(6)]
    for name in names:
        Image.new("RGB", (178, 218)).save(images / name)
    lines = [f"{name} 1 1" for name in names]
    attributes.write_text("\n".join(["6", "Smiling Young", *lines]))
    source, options = Celeba(tmp_path / "raw"), replace(OPTIONS, shard_samples=2)
    assert build_part(source, tmp_path / "out", Share(1, 2), options, workers=1) is None
    if change == "name":
        (images / names[0]).rename(images / "x.png")
        lines[0] = "x.png 1 1"
    else:
        lines[0] = f"{names[0]} 1 -1"
    attributes.write_text("\n".join(["6", "Smiling Young", *lines]))
    celeba._listing.cache_clear()
    with pytest.raises(InputError, match=OTHER_IMAGES):
        build_part(source, tmp_path / "out", Share(2, 2), options, workers=1)


def test_an_unfinished_build_of_an_earlier_version_goes_on(half: Path, raw: Path, whole: Path) -> None:
    """Its options say nothing of the list of images."""
    options = json.loads((half / ".build.json").read_text())
    del options["listing"]
    (half / ".build.json").write_text(json.dumps(options))
    assert build_part(Folder(raw), half, Share(2, 2), OPTIONS, workers=1)
    assert contents(half) == contents(whole)


def test_a_part_deletes_what_is_left_of_its_own_shards_only(tmp_path: Path) -> None:
    """Also of a shard whose number has seven digits."""
    left = [".shard-000004.tar.0123abcd.partial", "..shard-000005.npz.0123abcd.partial", ".index.npy.0123abcd.partial",
            ".shard-1000000.tar.0123abcd.partial", ".shard-1000001.tar.0123abcd.partial"]  # fmt: skip
    for name in left:
        (tmp_path / name).touch()
    parts._delete_partial(tmp_path, Share(1, 2))
    assert {path.name for path in tmp_path.iterdir()} == {left[1], left[2], left[4]}
    parts._delete_partial(tmp_path, Share(2, 2))
    assert {path.name for path in tmp_path.iterdir()} == {left[2]}


def test_parts_of_two_recipes_that_start_at_once(raw: Path, tmp_path: Path) -> None:
    """One of them is refused, and the shards are of the other alone."""

    def build_one(seed: int) -> str:
        try:
            build_part(Folder(raw), tmp_path / "out", Share(seed, 2), replace(OPTIONS, seed=seed), workers=1)
        except InputError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(build_one, (1, 2)))
    seed = said.index("") + 1
    assert f"seed was {seed}, is {3 - seed}" in "".join(said)
    build_part(Folder(raw), tmp_path / "out", Share(3 - seed, 2), replace(OPTIONS, seed=seed), workers=1)
    assert read_manifest(tmp_path / "out").build["seed"] == seed


def test_a_build_without_parts_does_the_rest(half: Path, raw: Path, whole: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in half.glob("*.tar")}
    assert build(Folder(raw), half, OPTIONS, workers=1) == read_manifest(whole)
    assert len(kept) == 2 and all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    assert contents(half) == contents(whole)


def test_parts_do_the_rest_of_a_build_without_parts(raw: Path, whole: Path, half: Path) -> None:
    """And there may be another number of them than before it."""
    with file_limit(20_000), pytest.raises(InputError, match="File too large"):
        build(Folder(raw), half, OPTIONS, workers=1)
    with pytest.raises(InputError, match=r"holds an unfinished build, not in parts\. Run it again"):
        join(half)
    build_parts(raw, half, [1, 2, 3])
    assert contents(half) == contents(whole)


def test_a_complete_data_set_is_only_read(raw: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [whole, *whole.iterdir()]}
    assert build_part(Folder(raw), whole, Share(4, 9), OPTIONS) == join(whole) == read_manifest(whole)
    with pytest.raises(InputError, match="was built with other options: seed was 5, is 6"):
        build_part(Folder(raw), whole, Share(1, 2), replace(OPTIONS, seed=6))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_join_without_parts(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds no parts of a build\. Build them with: python -m shards build"):
            join(out)
    assert not list(tmp_path.iterdir())


def test_a_last_step_that_was_killed(half: Path, raw: Path, whole: Path) -> None:
    """The next one completes the folder."""
    (half / ".index.npy.0123abcd.partial").write_bytes(b"half of it")
    (half / "index.npy").write_bytes(b"of some other shards")
    build_part(Folder(raw), half, Share(2, 2), OPTIONS, workers=1)
    assert contents(half) == contents(whole)


def test_another_process_may_complete_the_data_set_first(
    half: Path, raw: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without locks: the slower one finds that the records are gone."""

    def publish_twice(manifest: Manifest, shards: int, out: Path) -> Manifest:
        publish(manifest, shards, out)
        return publish(manifest, shards, out)

    monkeypatch.setattr(parts, "publish", publish_twice)
    assert build_part(Folder(raw), half, Share(2, 2), OPTIONS, workers=1) == read_manifest(whole)
    assert contents(half) == contents(whole)


def test_a_disk_that_fills_up(raw: Path, whole: Path, half: Path) -> None:
    with file_limit(20_000), pytest.raises(InputError, match=r"shard-000001\.tar: File too large\. Finished shards"):
        build_part(Folder(raw), half, Share(2, 2), OPTIONS, workers=1)
    assert not list(half.glob(".*.partial"))
    assert build_part(Folder(raw), half, Share(2, 2), OPTIONS, workers=1)
    assert contents(half) == contents(whole)


def start(out: Path, part: int) -> subprocess.Popen[str]:
    flags = ["--count", "160", "--shard-samples", "16", "--size", "32", "--workers", "1"]
    command = [sys.executable, "-m", "shards", "build", "faces", str(out), *flags, "--part", str(part), "--parts", "2"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0)


def test_a_part_that_is_killed_with_its_workers_runs_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first, second = start(out, 1), start(out, 2)
    for process, rest, sent in ((first, 0, signal.SIGSTOP), (second, 1, signal.SIGCONT)):
        until("a shard", lambda rest=rest: rest in {int(path.name[7:13]) % 2 for path in out.glob(".shard-*.npz")})
        os.killpg(process.pid, sent)  # the first one waits for the other, which may start much later
    os.killpg(first.pid, signal.SIGKILL)
    for number in (4, 5):  # what a kill in the middle of a write leaves, of each part
        (out / f".shard-{number:06d}.tar.0123abcd.partial").write_bytes(b"half of it")
    first.communicate()
    _, said = second.communicate()
    assert second.returncode == 0 and said.endswith(f"Built part 2 of 2. The last one completes {out}.\n")
    assert not (out / MANIFEST).exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.tar") if (out / f".{path.stem}.npz").exists()}
    build_part(Faces(160), out, Share(1, 2), Options(size=32, shard_samples=16), workers=1)
    assert len(kept) > 5 and all(path.stat().st_mtime_ns == time_ns for path, time_ns in kept.items())
    build(Faces(160), tmp_path / "whole", Options(size=32, shard_samples=16))
    assert contents(out) == contents(tmp_path / "whole")


def test_the_commands(run: Run, raw: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--size", "32", "--shard-samples", "13", "--format", "npy", "--seed", "5", "--skip-bad", "--workers", "1"]
    command = ["build", "folder", raw, out, *flags]
    for given in (["--part", "1"], ["--parts", "2"]):
        done = run(*command, *given)
        assert (done.returncode, done.stderr) == (
            2,
            "error: --part I and --parts N go together: part I of N, counted from 1.\n",
        )
    assert not out.exists()
    first = run(*command, "--part", "1", "--parts", "2")
    assert first.returncode == 0 and first.stdout == "" and "26 of 26 images" in first.stderr
    early = run("join", out)
    assert early.returncode == 2 and early.stderr.count("\n") == 1 and "of part 2 of 2" in early.stderr
    second = run(*command, "--part", "2", "--parts", "2")
    assert second.returncode == 0 and f"{out} is built." in second.stderr
    again = run("join", out)
    assert (again.returncode, again.stdout) == (0, second.stdout)
    assert again.stderr == f"{out} was built before; nothing to do.\n"
    assert contents(out) == contents(whole)
