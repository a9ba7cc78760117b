from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from shards.common.errors import InputError
from shards.format.index import ENTRY, member_key, split_key, write_index
from shards.format.manifest import INDEX
from tests.support.make import index_tar

LONG = "a/" * 60 + "b" * 120
MEMBERS = {
    "000.cls": b"7",
    "000.jpg": b"first",
    "0/1.json": b"{}",
    "0/1.png": b"x" * 512,
    "2.seg.jpg": b"not an image: its extension is seg.jpg",
    f"{LONG}.NPY": b"long",
    "grün.webp": b"",
}
IMAGES = ["000.jpg", "0/1.png", f"{LONG}.NPY", "grün.webp"]


def write(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_image_is_one_read_away(tmp_path: Path, format: int) -> None:
    path = write(tmp_path / "x.tar", MEMBERS, format)
    rows, data = index_tar(path), path.read_bytes()
    assert rows.dtype == ENTRY
    assert len(rows) == len(IMAGES)
    for row, name in zip(rows, IMAGES, strict=True):
        offset, size, header = int(row["offset"]), int(row["size"]), int(row["header"])
        assert data[offset : offset + size] == MEMBERS[name]
        assert row["digest"] == xxhash.xxh3_64_intdigest(MEMBERS[name])
        assert member_key(data[offset - header : offset]) == split_key(name)[0]


@pytest.mark.parametrize("cut", [1024, 1536, 2048, 3000])
def test_a_tar_cut_anywhere_is_noticed(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "x.tar", MEMBERS, tarfile.GNU_FORMAT)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"x\.tar is (truncated|not a whole)"):
        index_tar(path)


def test_what_is_not_a_plain_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    for data in (b"", b"hello", b"\x1f\x8b" + bytes(600)):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"x\.tar is (truncated|not a whole|gzipped)"):
            index_tar(path)


@pytest.mark.parametrize("zeros", [0, 512, 3 << 20])
def test_tars_that_were_joined_are_one(tmp_path: Path, zeros: int) -> None:
    parts = [
        write(tmp_path / f"{part}.tar", {f"{part}{name}": data for name, data in MEMBERS.items()}) for part in "ab"
    ]
    joined = tmp_path / "x.tar"
    joined.write_bytes(parts[0].read_bytes() + bytes(zeros) + parts[1].read_bytes() + bytes(zeros))
    rows, alone = index_tar(joined), [index_tar(part) for part in parts]
    assert rows["digest"].tolist() == [*alone[0]["digest"], *alone[1]["digest"]]
    assert rows["header"].tolist() == [*alone[0]["header"], *alone[1]["header"]]
    data = joined.read_bytes()
    for row in rows:
        start = int(row["offset"])
        assert row["digest"] == xxhash.xxh3_64_intdigest(data[start : start + int(row["size"])])


@pytest.mark.parametrize(
    "behind",
    [b"\n", b"a signature" * 100, bytes(511) + b"\1", bytes(1024) + b"garbage" * 200, "cut", "cut at a border", "gzip"],
)
def test_what_follows_a_tar_and_is_no_tar_is_an_error(tmp_path: Path, behind: bytes | str) -> None:
    first, second = write(tmp_path / "a.tar", {"1.jpg": b"a"}), write(tmp_path / "b.tar", {"2.jpg": bytes(5000)})
    if isinstance(behind, str):
        data = second.read_bytes()
        behind = {"cut": data[:3000], "cut at a border": data[: 512 + 5120], "gzip": gzip.compress(data)}[behind]
    joined = tmp_path / "x.tar"
    joined.write_bytes(first.read_bytes() + behind)
    with pytest.raises(InputError, match=r"x\.tar is (truncated|not a whole)"):
        index_tar(joined)


def test_an_image_that_no_machine_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", {"1.jpg": b"a"})
    member = tarfile.TarInfo("1.jpg")
    member.size = 1 << 60
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(InputError, match=r"holds the image '1.jpg' of 1,152,921,504,606,846,976 bytes"):
        index_tar(path)


@pytest.mark.parametrize("headers", [{"GNU.sparse.map": "x", "GNU.sparse.size": "1"}, None])
def test_extended_headers_that_cannot_be(tmp_path: Path, headers: dict[str, str] | None) -> None:
    member = tarfile.TarInfo("1.jpg")
    if headers:
        member.pax_headers = headers
    else:  # a header of a terabyte
        member.type, member.size = tarfile.XHDTYPE, 1 << 40
    path = tmp_path / "x.tar"
    path.write_bytes(member.tobuf(tarfile.PAX_FORMAT if headers else tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(InputError, match=r"x\.tar is not a whole, uncompressed tar"):
        index_tar(path)


def test_two_images_under_one_key(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", {"1.jpg": b"a", "1.png": b"b"})
    with pytest.raises(InputError, match="two images under the key '1'"):
        index_tar(path)


def test_an_empty_tar_has_no_rows(tmp_path: Path) -> None:
    rows = index_tar(write(tmp_path / "x.tar", {}))
    assert rows.dtype == ENTRY
    assert rows.shape == (0,)


def test_a_place_without_a_header() -> None:
    with pytest.raises(InputError, match="no tar header"):
        member_key(bytes(512))


NAMES = st.text("ab.é ", max_size=6)


@given(folder=st.lists(NAMES, max_size=3), stem=st.text("ab é", max_size=6), extension=NAMES)
def test_the_key_ends_at_the_first_dot_of_the_file_name(folder: list[str], stem: str, extension: str) -> None:
    path = "/".join([*folder, stem])
    assert split_key(f"{path}.{extension}") == (path, extension)


def test_offsets_are_wide_enough_for_any_tar() -> None:
    assert np.iinfo(ENTRY["offset"]).max > 2**60


def test_the_index_is_the_file_that_numpy_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    entries = [np.frombuffer(rng.bytes(count * ENTRY.itemsize), ENTRY) for count in (3, 0, 4000)]
    np.save(tmp_path / "expected.npy", np.concatenate(entries))
    digest = write_index(entries, tmp_path)
    assert (tmp_path / INDEX).read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert digest == hashlib.sha256((tmp_path / INDEX).read_bytes()).hexdigest()
