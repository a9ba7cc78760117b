from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.common.errors import InputError
from trainer.folder.journal import Journal, roll_back


def write(path: Path, steps: list[int]) -> list[bytes]:
    journal = Journal(path)
    for number, step in enumerate(steps):
        journal.append({"step": step, "keys": ["a" * number, "ü"]})
    journal.sync()
    journal.close()
    return path.read_bytes().splitlines(keepends=True)


def test_a_row_is_on_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.jsonl"
    journal = Journal(path)
    for step in range(3):
        journal.append({"step": step, "x": 0.5})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [
            {"step": i, "x": 0.5} for i in range(step + 1)
        ]
    journal.close()


def test_a_full_disk_is_an_error_that_names_the_file() -> None:
    journal = Journal(Path("/dev/full"))
    with pytest.raises(InputError, match=r"/dev/full cannot be written \(No space left"):
        journal.append({"step": 1})
    journal.close()


def test_a_second_session_goes_on_behind_the_first(tmp_path: Path) -> None:
    write(tmp_path / "x", [1, 2])
    assert [json.loads(line)["step"] for line in write(tmp_path / "x", [3])] == [1, 2, 3]


@given(
    steps=st.lists(st.integers(0, 20), max_size=12).map(sorted),
    cut=st.integers(0, 4) | st.integers(0, 40),
    to=st.integers(0, 21),
    tail=st.sampled_from([b"", b"\0\0\0", b"\0\0\n", b'{"step"\n', b"\xff\xfe\n"]),
)
@example(steps=[1, 2], cut=1, to=5, tail=b"")
def test_what_is_left_is_every_whole_line_up_to_the_step(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], cut: int, to: int, tail: bytes
) -> None:
    """A kill tears the last line, a crash of the machine may leave rubbish behind it."""
    path = tmp_path_factory.mktemp("journal") / "x"
    write(path, steps)
    whole = path.read_bytes()
    torn = whole[: max(0, len(whole) - cut)]
    path.write_bytes(torn + tail)
    roll_back(path, to)
    kept = [line for line in torn.splitlines(keepends=True) if line.endswith(b"\n")]
    assert path.read_bytes() == b"".join(line for line in kept if json.loads(line)["step"] <= to)


def test_rolling_back_twice_changes_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "x"
    lines = write(path, [1, 2, 3, 4])
    for _ in range(2):
        roll_back(path, 2)
        assert path.read_bytes() == b"".join(lines[:2])


def test_a_journal_not_begun_yet_is_fine(tmp_path: Path) -> None:
    roll_back(tmp_path / "none", 3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", [b"3\n", b"[]\n", b"{}\n", b"null\n"])
def test_a_line_that_is_no_row_ends_the_journal(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x"
    lines = write(path, [1])
    path.write_bytes(lines[0] + line + lines[0])
    roll_back(path, 5)
    assert path.read_bytes() == lines[0]
