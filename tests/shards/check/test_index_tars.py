from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shards.check.index_tars import index_tars
from shards.check.verify import verify
from shards.common.errors import InputError
from shards.format.codec import encode, fit
from shards.format.manifest import read_manifest, write_manifest
from shards.loading.dataset import ShardDataset
from shards.loading.reader import Reader
from shards.sources.folder import Folder
from shards.storage.locate import CacheOptions
from tests.shards.conftest import Run
from tests.support.faulty import FaultyServer
from tests.support.make import key, make_shards, numbers, picture

LONG = "deep/" * 30 + "x" * 130


def photo(number: int, width: int = 50, height: int = 40, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height)).convert(mode)


def encoded(image: Image.Image, format: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format, quality=90, lossless=True)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def motley(tmp_path: Path) -> Path:
    """What people really have: nested and long names, several encodings and sizes, texts and labels in between."""
    folder = tmp_path / "motley"
    write_tar(
        folder / "a" / "train-000.tar",
        {"1.txt": b"a caption", "1.JPG": encoded(photo(1), "jpeg"), "1.json": b"{}",
         f"{LONG}.jpeg": encoded(photo(2, 64, 64), "jpeg"), "2.cls": b"3"},
    )  # fmt: skip
    write_tar(
        folder / "b.tar",
        {"x/1.png": encoded(photo(3, 80, 64, "L"), "png"), "x/2.webp": encoded(photo(4, 200, 300), "webp"),
         "x/3.npy": encode(np.asarray(photo(5, 64, 64)), "npy"), "readme.md": b"hello"},
        tarfile.GNU_FORMAT,
    )  # fmt: skip
    write_tar(folder / "empty.tar", {"notes.txt": b""})
    return folder


def test_any_webdataset_can_be_read(motley: Path) -> None:
    manifest = index_tars(str(motley))
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [("a/train-000.tar", 2), ("b.tar", 3)]
    assert (manifest.format, manifest.size, manifest.channels) == ("any", 64, 3)
    assert manifest.build == {"formats": {"jpg": 2, "npy": 1, "png": 1, "webp": 1}, "broken": 0,
                              "other members": {"txt": 2, "cls": 1, "json": 1, "md": 1}}  # fmt: skip
    assert manifest == read_manifest(motley)
    assert not list(verify(motley))

    batch = ShardDataset(motley, keys=True).__getitems__(range(5))
    assert sorted(batch.keys) == sorted(["1", LONG, "x/1", "x/2", "x/3"])
    images = dict(zip(batch.keys, batch.images.numpy(), strict=True))
    assert np.array_equal(images["x/2"], fit(photo(4, 200, 300), 64, 3))
    assert np.array_equal(images["x/1"], fit(photo(3, 80, 64, "L"), 64, 3))
    assert np.array_equal(images["x/3"], np.asarray(photo(5, 64, 64)))
    assert np.abs(images["1"].astype(int) - fit(photo(1), 64, 3, upscale=True)).mean() < 4


def test_the_source_is_not_touched_when_the_index_goes_elsewhere(motley: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in motley.rglob("*")}
    index_tars(str(motley), out=tmp_path / "index", size=32, channels=1)
    assert {path: path.stat().st_mtime_ns for path in motley.rglob("*")} == before
    batch = ShardDataset(tmp_path / "index").__getitems__(range(5))
    assert batch.images.shape == (5, 32, 32, 1)


def test_an_even_set_keeps_its_format_and_size(tmp_path: Path) -> None:
    for format, channels in (("jpg", 3), ("png", 1)):
        folder = tmp_path / format
        made = make_shards(folder, samples=12, format=format, channels=channels)
        indexed = index_tars(str(folder), out=tmp_path / f"{format}-index")
        assert (indexed.format, indexed.size, indexed.channels) == (format, 32, channels)
        assert indexed.digest == made.digest
        one, two = (ShardDataset(path)[3].images for path in (folder, tmp_path / f"{format}-index"))
        assert torch.equal(one, two)


def test_a_pattern_names_its_tars(tmp_path: Path) -> None:
    make_shards(tmp_path / "tars", samples=30, shard_samples=10)
    manifest = index_tars(str(tmp_path / "tars" / "shard-{00000,00002}.tar"), out=tmp_path / "index")
    assert [shard.name for shard in manifest.shards] == ["shard-00000.tar", "shard-00002.tar"]
    images = ShardDataset(tmp_path / "index").__getitems__(range(20)).images
    assert sorted(numbers(images)) == [*range(10), *range(20, 30)]
    with pytest.raises(InputError, match=r"there is no .*shard-00003.tar"):
        index_tars(str(tmp_path / "tars" / "shard-{00000..00003}.tar"))


def test_a_broken_image_is_indexed_counted_and_replaced(run: Run, tmp_path: Path) -> None:
    members = {f"{number}.jpg": encoded(photo(number, 64, 64), "jpeg") for number in range(8)}
    write_tar(tmp_path / "x.tar", {**members, "3.jpg": b"\xff\xd8\xff not a picture"})
    manifest = index_tars(str(tmp_path))
    assert (manifest.format, manifest.build["broken"]) == ("jpg", 1)
    (problem,) = verify(tmp_path)
    assert problem.startswith("x.tar, '3' at byte") and "does not decode" in problem
    assert {sample.key for sample in ShardDataset(tmp_path).__getitems__(range(8)).bad} == {"3"}
    info = run("info", tmp_path)
    assert info.returncode == 0
    assert "Warning: 1 of the images on the sheet are replaced. The sample " in info.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda _: None, r"holds no \.tar files"),
        (lambda folder: write_tar(folder / "x.tar", {"a.txt": b""}), "holds no images"),
        (lambda folder: (folder / "x.tar").write_bytes(b""), r"x\.tar is (truncated|not a whole)"),
        (lambda folder: (folder / "x.tar").write_bytes(b"hello" * 200), r"x\.tar is (truncated|not a whole)"),
        (lambda folder: write_tar(folder / "x.tar", {"a.jpg": b"", "a.png": b""}), "two images under the key 'a'"),
    ],
)
def test_what_cannot_be_indexed_is_said(tmp_path: Path, damage: object, says: str) -> None:
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        index_tars(str(tmp_path))
    assert not (tmp_path / "manifest.json").exists()


def test_the_content_of_an_image_counts_and_not_its_name(tmp_path: Path) -> None:
    for format, other in (("png", "jpg"), ("jpg", "png")):
        images = {f"{number}.{other}": encode(picture(number, 32, 3), format) for number in range(8)}
        write_tar(tmp_path / format / "x.tar", images)
        manifest = index_tars(str(tmp_path / format))
        assert (manifest.format, manifest.shape, manifest.build["broken"]) == (format, (32, 32, 3), 0)
        assert not list(verify(tmp_path / format))
        assert not ShardDataset(tmp_path / format).__getitems__(range(8)).bad


def test_broken_images_decide_neither_size_nor_channels_nor_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = bytearray(encode(picture(1, 32, 3), "jpg"))
    start = bomb.index(b"\xff\xc0") + 5
    bomb[start : start + 4] = bytes([255, 0, 255, 0])  # a header that claims 65280x65280 pixels
    broken = {
        "page": b"<html>404</html>", "empty": b"", "bomb": bytes(bomb),
        "wide": encoded(photo(1, 300, 200), "jpeg")[:2000],  # whole headers, but not whole images
        "colour": encoded(photo(1, 32, 32), "jpeg")[:500], "other": encoded(photo(1, 32, 32), "png")[:300],
    }  # fmt: skip
    whole = {f"{number}.jpg": encode(picture(number, 32, 1), "jpg") for number in range(8)}
    write_tar(tmp_path / "x.tar", {f"{name}.jpg": data for name, data in broken.items()} | whole)
    manifest = index_tars(str(tmp_path))
    assert (manifest.format, manifest.shape, manifest.build["broken"]) == ("jpg", (32, 32, 1), 6)
    assert manifest.build["formats"] == {"jpg": 8}
    assert (
        "6 images are broken; training replaces them. The first is 'page' of x.tar: not an" in capsys.readouterr().err
    )
    assert {sample.key for sample in ShardDataset(tmp_path).__getitems__(range(14)).bad} == {*broken}
    assert len(problems := [*verify(tmp_path)]) == 6 and all("does not decode: " in line for line in problems)
    write_tar(tmp_path / "y" / "y.tar", {f"{name}.jpg": data for name, data in broken.items()})
    with pytest.raises(InputError, match=r"holds no images, only broken ones. The first is 'page' of y.tar: not"):
        index_tars(str(tmp_path / "y"))


def test_tars_and_folders_give_the_same_pixels(tmp_path: Path) -> None:
    """Also of the same size as the data set, which takes the fastest decoder."""
    exif = Image.Exif()
    exif[0x0112] = 6
    hidden = photo(1, 32, 32).convert("RGBA")
    hidden.putalpha(photo(2, 32, 32, "L").point(lambda level: 255 * (level > 99)))
    colour = photo(3, 32, 32)
    deep = Image.fromarray(np.asarray(photo(4, 32, 32, "L")).astype(np.uint16) * 257)
    sets = {
        "turned": {"jpeg": save(colour, "jpeg", exif=exif), "wide": save(photo(6, 80, 40), "jpeg", exif=exif)},
        "turned-png": {"png": save(colour, "png", exif=exif)},
        "hidden": {"png": save(hidden, "png")},
        "deep": {"png": save(deep, "png")},
        "cmyk": {"jpeg": save(colour.convert("CMYK"), "jpeg")},
        "mixed": {"gif": save(colour, "gif"), "bmp": save(colour, "bmp"), "webp": save(hidden, "webp", lossless=True),
                  "tiff": save(deep, "tiff"), "grey": save(colour.convert("L"), "jpeg")},
    }  # fmt: skip
    for name, images in sets.items():
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for stem, data in images.items():
            (raw / f"{stem}.jpg").write_bytes(data)
        write_tar(tmp_path / name / "tars" / "x.tar", {f"{stem}.jpg": data for stem, data in images.items()})
        index = index_tars(str(tmp_path / name / "tars"), channels=3, size=32)
        assert (index.format == "any") == (len(images) > 1)
        batch = ShardDataset(tmp_path / name / "tars", keys=True).__getitems__(range(len(images)))
        assert not batch.bad
        source = Folder(raw)
        for item in map(source.__getitem__, range(len(source))):
            streamed = batch.images[batch.keys.index(item.origin.removesuffix(".jpg"))].numpy()
            assert np.array_equal(streamed, fit(item.image, 32, 3))


def save(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_images_whose_keys_have_dots_are_missed_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {f"v1.2/IMG_{number}.JPG": jpeg() for number in range(3)}  # dots of folders do not count
    dotted = {f"IMG_2020.01.0{day}.jpg": jpeg() for day in range(5)} | {"x.gif": b"GIF89a", "notes.v2.txt": b""}
    dotted |= dict.fromkeys(("y.jpg?w=640", "z.jfif", "a.b.TIFF?x=1", "c.HEIF"), jpeg())
    write_tar(tmp_path / "x.tar", members | dotted)
    assert index_tars(str(tmp_path)).samples == 3
    warning = capsys.readouterr().err
    assert "Warning: 10 members look like images but are not read, such as KEY.01.00.jpg." in warning
    assert "begins at the first dot of the file name" in warning
    write_tar(tmp_path / "only" / "y.tar", dotted)
    with pytest.raises(InputError, match=r"holds no images, but .*KEY\.01\.00\.jpg.* with no other dot"):
        index_tars(str(tmp_path / "only"))


def test_joined_tars_are_read_whole(tmp_path: Path) -> None:
    """Also where their keys are the same, as in tars that are numbered each from 0."""
    parts = []
    for part in range(3):
        members = {f"{number}.npy": encode(picture(10 * part + number, 32, 3), "npy") for number in range(4)}
        labels = {f"{number}.cls": str(part).encode() for number in range(4)}
        write_tar(tmp_path / "parts" / f"{part}.tar", members | labels)
        parts.append((tmp_path / "parts" / f"{part}.tar").read_bytes())
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    index_tars(str(tmp_path / "x.tar"), tmp_path / "index", size=32)
    assert not list(verify(tmp_path / "index"))
    dataset = ShardDataset(tmp_path / "index")
    found = numbers(dataset.__getitems__(range(12)).images)
    assert sorted(found) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert dataset.reader.labels_at(0, 12).tolist() == [number // 10 for number in found]


def test_an_index_of_the_first_of_joined_tars_is_no_whole_data_set(tmp_path: Path) -> None:
    """Earlier versions wrote such an index."""
    plain(tmp_path / "x.tar", 2)
    manifest = index_tars(str(tmp_path))
    plain(tmp_path / "y", 3)
    with (tmp_path / "x.tar").open("ab") as file:
        file.write((tmp_path / "y").read_bytes())
    data = (tmp_path / "x.tar").read_bytes()
    shard = replace(manifest.shards[0], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    write_manifest(replace(manifest, shards=(shard,)), tmp_path)
    assert [*verify(tmp_path)] == ["x.tar: holds 3 images behind those in the index. Index or build it again"]


def test_a_built_set_keeps_its_own_index(tmp_path: Path) -> None:
    make_shards(tmp_path)
    with pytest.raises(InputError, match=r"was built by .* and has its index"):
        index_tars(str(tmp_path))
    with pytest.raises(InputError, match="No tars at"):
        index_tars(str(tmp_path / "nowhere"))


def test_keys_of_our_own_tars_are_found_again(tmp_path: Path) -> None:
    make_shards(tmp_path / "tars", samples=5)
    index_tars(str(tmp_path / "tars"), out=tmp_path / "index")
    batch = ShardDataset(tmp_path / "index", keys=True).__getitems__(range(5))
    assert sorted(batch.keys) == [key(number) for number in range(5)]
    assert np.array_equal(batch.images[batch.keys.index(key(2))].numpy(), picture(2))


def test_tars_behind_a_url_are_indexed_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.check.index_tars.FIRST_PATIENCE", 1.0)
    make_shards(tmp_path / "tars", samples=30, shard_samples=10, format="png")
    (tmp_path / "tars" / "manifest.json").unlink()
    with FaultyServer(tmp_path / "tars", login="me:secret") as server:
        url = server.url.replace("://", "://me:secret@") + "/shard-{00000..00002}.tar"
        with pytest.raises(InputError, match="Give --out"):
            index_tars(url)
        index_tars(url, out=tmp_path / "index")
        assert "secret" not in (tmp_path / "index" / "manifest.json").read_text()
    with FaultyServer(tmp_path / "tars") as server:  # no login: as if fsspec's configuration had it
        index_tars(f"{server.url}/shard-{{00000..00002}}.tar", out=tmp_path / "index")
        dataset = ShardDataset(tmp_path / "index", cache=CacheOptions(tmp_path / "cache"))
        assert sorted(numbers(dataset.__getitems__(range(30)).images)) == list(range(30))
        dataset.reader.close()
    with pytest.raises(InputError, match=r"cannot be (read|listed)") as caught:
        index_tars(f"http://me:secret@127.0.0.1:{server.port}/x.tar", out=tmp_path / "none")
    assert "secret" not in str(caught.value)


def test_braces_across_folders_share_their_parent(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plain(tmp_path / folder / "x.tar", 3)
    manifest = index_tars(f"{tmp_path}/{{a,b}}/x.tar", tmp_path / "index")
    assert [shard.name for shard in manifest.shards] == ["a/x.tar", "b/x.tar"]
    assert len(index_tars(f"{tmp_path}/*/x.tar", tmp_path / "other").shards) == 2


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("1.jpg", "1.cls", "2.gif", "3.gif"):
            data = jpeg() if name.endswith("jpg") else b"?"
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    manifest = index_tars(str(tmp_path))
    assert manifest.samples == 1
    assert manifest.build["other members"] == {"gif": 2, "cls": 1}


def test_all_tars_below_a_folder_are_found(tmp_path: Path) -> None:
    """Also behind a link and with another spelling; what is lost is an error or a warning."""
    folder = tmp_path / "tars"
    for number, name in enumerate(("tars/a.tar", "tars/B.TAR", "tars/c.tar/d.tar", "disk/e.tar", "tars/@eaDir/f.tar")):
        write_tar(tmp_path / name, {f"{number}.jpg": jpeg()})
    (folder / "more").symlink_to(tmp_path / "disk")
    (folder / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.tar")
    (folder / "g.tar.gz").write_bytes(b"")
    (folder / "h.tgz").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"^2 compressed tars are not read, such as g\.tar\.gz\. Unpack them\.$"):
        manifest = index_tars(str(folder), tmp_path / "out")
    assert [shard.name for shard in manifest.shards] == ["B.TAR", "a.tar", "c.tar/d.tar", "more/e.tar"]
    assert [*verify(tmp_path / "out")] == []
    (tmp_path / "disk").rename(tmp_path / "lost")
    with pytest.raises(FileNotFoundError, match="tars/more/'"):
        index_tars(str(folder), tmp_path / "other")


def link(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as tar:
        member = tarfile.TarInfo("1.jpg")
        member.type, member.linkname = tarfile.LNKTYPE, "0.jpg"
        tar.addfile(member)


def device(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w") as tar:
        member = tarfile.TarInfo("1.jpg")
        member.type = tarfile.CHRTYPE
        tar.addfile(member)


def sparse(options: str, folder: Path) -> None:
    with (folder / "1.npy").open("wb") as file:
        file.write(encode(picture(1, 32, 3), "npy"))
        file.truncate(4 << 20)
    subprocess.run(["tar", "-S", *options.split(), "-cf", "x.tar", "1.npy"], cwd=folder, check=True)


def gzipped(folder: Path) -> None:
    plain(folder / "y.tar", 2)
    (folder / "x.tar").write_bytes(gzip.compress((folder / "y.tar").read_bytes()))
    (folder / "y.tar").unlink()


def only_gzipped(folder: Path) -> None:
    (folder / "x.tar.gz").write_bytes(gzip.compress(b""))


@pytest.mark.parametrize(
    ("make", "where", "message"),
    [
        (link, "", "holds the image '1.jpg' as a link"),
        (device, "", "holds the image '1.jpg' as a link or a device"),
        *(
            (partial(sparse, options), "", "holds the image '1.npy' .* as a sparse file")
            for options in ("--format=gnu", *(f"--format=posix --sparse-version={n}" for n in ("0.0", "0.1", "1.0")))
        ),
        (gzipped, "", "is gzipped"),
        (only_gzipped, "", r"only compressed ones \(x.tar.gz\)"),
        (lambda folder: plain(folder / "x.tar", 1), "{x,x}.tar", "names a tar twice"),
        (lambda _: None, "{000..999999999}.tar", "names more than 100 tars"),
        (lambda _: None, "{-999999999..0}.tar", "names more than 100 tars"),
        (lambda _: None, "{0..99}-{0..9}.tar", "names more than 100 tars"),
        (lambda _: None, "x-{000..003.tar", "its braces do not match"),
        (lambda _: None, "x-000..003}.tar", "its braces do not match"),
        (lambda _: None, "x-{a,b.tar", "its braces do not match"),
        (lambda _: None, "x-{}.tar", r"there is no .*x-\{\}\.tar"),
        (lambda _: None, "*.tar", "there is no"),
    ],
)
def test_tars_that_cannot_be_used_are_told(
    tmp_path: Path, make: Callable[[Path], None], where: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.storage.tars.MAX_TARS", 100)
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        index_tars(str(tmp_path / where))
    assert not (tmp_path / "manifest.json").exists()


def test_a_pattern_of_remote_tars_with_wrong_braces_is_one_line() -> None:
    with pytest.raises(InputError, match=r"x-\{0\.\.3\.tar is not a pattern of tars: its braces do not match"):
        index_tars("https://nowhere.invalid/x-{0..3.tar")


def test_what_systems_leave_in_a_tar_is_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw" / "@eaDir").mkdir(parents=True)
    plain(tmp_path / "raw" / "@eaDir" / "x.tar", 1)
    (tmp_path / "raw" / "unpacked.tar").mkdir()
    with tarfile.open(tmp_path / "raw" / "x.tar", "w") as tar:
        for name in ("./a/1.jpg", "./a/._1.jpg", "@eaDir/1.jpg/THUMB.jpg", "__MACOSX/a/._1.jpg", "a/.thumbnails/1.jpg",
                     "a/Thumbs.db", ".DS_Store", "a/1.cls"):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            tar.addfile(member, io.BytesIO(jpeg()))
    manifest = index_tars(str(tmp_path / "raw"))
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [("x.tar", 1)]
    assert manifest.build["other members"] == {"hidden": 6, "cls": 1}
    assert "Warning: 6 members are hidden" in capsys.readouterr().err


def test_names_in_tars_that_are_not_utf8(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()
    for name in ("a\udce9.tar", "b\n.tar"):
        with tarfile.open(folder / name, "w", format=tarfile.GNU_FORMAT) as tar:
            for member_name, data in (("k\udce9\n.jpg", jpeg()), ("k\udce9\n.t\udce9", b"x"), ("l.jpg", b"no image")):
                member = tarfile.TarInfo(member_name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    index = run("index", folder, "--size", "32", "--channels", "3")
    assert index.returncode == 0, index.stderr
    assert json.loads((folder / "manifest.json").read_text())["build"]["other members"] == {"t\\xe9": 2}
    verify = run("verify", folder)
    assert verify.returncode == 2
    assert [line.partition(".tar, ")[0] for line in verify.stdout.splitlines()] == ["a\\xe9", "b\\n"]
    with closing(Reader(folder, lanes=1, keys=True)) as reader:
        keys = reader.read(0, np.empty((4, 32, 32, 3), np.uint8)).keys
    assert set(keys) == {"k\\xe9\\n"}  # text in one line of JSON; the broken images are replaced
    info = run("info", folder)
    assert info.returncode == 0, info.stderr


def test_braces_in_the_name_of_a_tar(tmp_path: Path) -> None:
    for name in ("a}b", "{1,2}", "[x]"):
        plain(tmp_path / f"{name}.tar", 1)
        assert index_tars(str(tmp_path / f"{name}.tar"), tmp_path / f"index {name}").samples == 1


def test_an_index_of_more_tars_is_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        plain(tmp_path / f"{name}.tar", 2)
    index_tars(str(tmp_path))
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(InputError, match=r"holds the index of 1 tars that are not at .* now, such as b.tar"):
        index_tars(str(tmp_path / "a.tar"))
    assert (tmp_path / "manifest.json").read_bytes() == before
    plain(tmp_path / "c.tar", 2)
    assert index_tars(str(tmp_path)).samples == 6


def test_a_server_without_ranges_is_told_before_anything_is_read(tmp_path: Path) -> None:
    plain(tmp_path / "x.tar", 2)
    with FaultyServer(tmp_path, ranges=False) as server:
        with pytest.raises(InputError, match="ignores the requested range"):
            index_tars(f"{server.url}/x.tar", tmp_path / "index")
        assert len(server.requests) == 1


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_read(tmp_path: Path) -> None:
    plain(tmp_path / "x.tar", 2)
    (tmp_path / "x.tar").write_bytes(b"no tar at all")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        index_tars(str(tmp_path / "x.tar"), tmp_path / "file")


def plain(path: Path, images: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(images):
            member = tarfile.TarInfo(f"{path.stem}{number}.jpg")
            data = jpeg()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def jpeg() -> bytes:
    return encode(np.zeros((32, 32, 3), np.uint8), "jpg")
