from __future__ import annotations

import pytest

from shards.common.names import LISTED, is_below_junk, is_junk, list_names, printable


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("caf\udce9", r"caf\xe9"),
        ("a\nb\t\x1b[2J", r"a\nb\t\x1b[2J"),
        ("\u2028\x85\ud800", r"\u2028\x85\ud800"),
        ("caf\u00e9 \u5bff\u3000\N{FAMILY}\u200d\u00a0.jpg", "caf\u00e9 \u5bff\u3000\N{FAMILY}\u200d\u00a0.jpg"),
    ],
)
def test_printable(name: str, text: str) -> None:
    assert printable(name) == printable(text) == text
    text.encode()


def test_a_list_of_names_is_short_and_printable() -> None:
    assert list_names(["a\n", "b"]) == r"a\n, b"
    assert list_names([*map(str, range(LISTED + 1_000))]).endswith(f", {LISTED - 1} and 1,000 more")


def test_junk() -> None:
    for name in (".DS_Store", "._x.jpg", "Thumbs.db", "thumbs.db", "@eaDir", "__MACOSX", "lost+found", ".thumbnails"):
        assert is_junk(name)
        assert is_below_junk(f"./a/{name}/b.jpg")
    for path in ("./a/b.jpg", "../a.jpg", "a@eaDir/thumbs/x.jpg", "/a//b.jpg"):
        assert not is_below_junk(path)
