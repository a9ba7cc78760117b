from __future__ import annotations

import io
import sys

import pytest

from shards.common.command import read_words
from shards.common.errors import InputError


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["x", "--out", ""], "The value of --out is empty"),
        (["--data.cache=", "x"], "The value of --data.cache is empty"),
        (["--out= "], "The value of --out is empty"),
        (["", "--seed", "1"], "Argument 1 is empty"),
        (["x", "\t"], "Argument 2 is empty"),
        (["--seed", "1", ""], "Argument 3 is empty"),
    ],
)
def test_empty_words_are_named(words: list[str], what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_words(words)


def test_other_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["x", "--where=https://h/x?sig=a=", "https://h/x?sig=", "--flip", "-", "--", "a b"]
    assert read_words(words) == words
    assert read_words([]) == []
    monkeypatch.setattr(sys, "argv", ["program", *words])
    assert read_words() == words


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", rb"caf\udce9 \xe9 \u5bff"), ("utf-8", "caf\\udce9 é 寿".encode())]
)
def test_any_name_can_be_printed(monkeypatch: pytest.MonkeyPatch, encoding: str, printed: bytes) -> None:
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
    read_words([])
    print("caf\udce9 é 寿", flush=True)
    assert file.getvalue() == printed + b"\n"
