from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.common.errors import InputError
from shards.loading.reader import Bad
from tests.support.launching import SMALL, rows, run, status
from tests.support.make import key, make_one_broken
from trainer.folder.journal import (
    BadSampleLog,
    Journal,
    check_bad_samples,
    ignore,
    read_figures,
    read_journal,
    roll_back,
    roll_back_folder,
    rollbacks_to,
)
from trainer.folder.run_folder import RunFolder

BAD = Bad(7, "a.tar", "000000007", 512, "broken")


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
    roll_back(path, 2)
    os.utime(path, (0, 0))
    roll_back(path, 2)
    assert path.read_bytes() == b"".join(lines[:2]) and path.stat().st_mtime == 0  # another process may be appending


def test_a_journal_not_begun_yet_is_fine(tmp_path: Path) -> None:
    roll_back(tmp_path / "none", 3)
    assert not list(tmp_path.iterdir())


DAMAGED = [b"3\n", b"[]\n", b"{}\n", b"null\n", b"\0\n", b"\xff\n", b"\n", b'{"step": "1"}\n', b"[" * 9999 + b"\n"]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_line_that_is_no_row_goes_unless_it_is_kept(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x"
    lines = write(path, [1, 9])
    path.write_bytes(lines[0] + line + lines[1] + line + lines[0][:-1])
    roll_back(path, 5, keep_damaged=True)
    assert path.read_bytes() == lines[0] + line + line
    roll_back(path, 5)
    assert path.read_bytes() == lines[0]


def test_damaged_lines_are_left_out_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, said = tmp_path / "x", list[str]()
    write(path, [1, 2, 3])
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, *DAMAGED, *others, first[:-1]]))
    for _ in range(2):
        assert [row["step"] for row in read_journal(path, dict, said.append)] == [1, 2, 3]
        assert [row["step"] for row in read_journal(path, dict, last=2)] == [3]
    assert said == [f"{path}: lines 2, 3, 4, 5, 6 and 5 more are damaged and left out."] * 2
    assert [*read_journal(path, dict, last=12)] == [*read_journal(path, dict, ignore)][1:]
    assert capsys.readouterr().err == (
        f"warning: {path}: 1 of the last 2 lines is damaged and left out.\n"
        f"warning: {path}: 10 of the last 12 lines are damaged and left out.\n"
    )
    assert [*read_journal(tmp_path / "none", dict, said.append)] == [] and len(said) == 2
    assert [*read_journal(tmp_path, dict, said.append)] == []
    assert said[2] == f"{tmp_path} cannot be read (Is a directory) and is left out."


@given(
    lengths=st.lists(st.integers(0, 90), max_size=9),
    last=st.integers(1, 6),
    cut=st.integers(0, 20),
)
@example(lengths=[20] * 9, last=1, cut=0)  # a block of the end holds one line and the end of another
def test_the_last_lines_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], last: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "x"
    rows = [{"step": step, "text": "a" * length} for step, length in enumerate(lengths)]
    whole = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    lines = path.read_bytes().splitlines(keepends=True)[-last:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.folder.journal.TAIL", 16)
        found = [*read_journal(path, dict, ignore, last=last)]
    assert found == [json.loads(line) for line in lines if line.endswith(b"\n")]


def test_of_a_long_journal_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(2**28)
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"step": 1}\n{"step": 2}\n')
    before = psutil.Process().io_counters().read_chars
    assert [*read_journal(path, dict, last=2)] == [{"step": 1}, {"step": 2}]
    assert psutil.Process().io_counters().read_chars - before < 2**20


def test_figures_have_a_number_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x"
    path.write_text('{"step": 1, "images": 8}\n{"step": 2}\n{"step": 3, "images": NaN}\n')
    assert [row["step"] for row in read_figures(path)] == [1]
    assert capsys.readouterr().err.endswith("lines 2, 3 are damaged and left out.\n")


def test_a_cut_line_is_ended_before_others_follow(tmp_path: Path) -> None:
    path = tmp_path / "x"
    cut = write(path, [1])[0][:-5]
    path.write_bytes(cut)
    assert write(path, [2])[0] == cut + b"\n"
    assert [row["step"] for row in read_journal(path, dict)] == [2]


def test_a_folder_goes_back_with_its_sheets_and_keeps_its_damaged_scores(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.samples.mkdir()
    sheets = ["real.png", "step-000000002.png", "step-000000004.png", "step-mine.png"]
    for name in sheets:
        (folder.samples / name).touch()
    for path in (folder.metrics, folder.scores, folder.rollbacks, tmp_path / "audit" / "rank-0.jsonl"):
        lines = write(path, [1, 3])
        path.write_bytes(b"".join([*lines, b"damaged\n"]))
    roll_back_folder(folder, tmp_path / "audit", 2)
    assert folder.scores.read_bytes() == folder.rollbacks.read_bytes() == lines[0] + b"damaged\n"
    assert folder.metrics.read_bytes() == (tmp_path / "audit" / "rank-0.jsonl").read_bytes() == lines[0]
    assert sorted(path.name for path in folder.samples.iterdir()) == ["real.png", "step-000000002.png", "step-mine.png"]


def test_lines_out_of_order_stay_if_their_steps_do(tmp_path: Path) -> None:
    """As the scores, of which somebody may ask twice."""
    path = tmp_path / "x"
    lines = write(path, [2, 4, 6, 2, 6, 4])
    roll_back(path, 4)
    assert path.read_bytes() == b"".join(lines[place] for place in (0, 1, 3, 5))


def test_a_torn_line_hides_no_rollback(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('{"step": 4, "rollbacks": 1}\n{"step": 4, "rollbacks": 2}\n{"step": 4, "roll')
    assert rollbacks_to(path, 4) == 2 and rollbacks_to(path, 3) == 0 == rollbacks_to(tmp_path / "none", 4)
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)\. Repair"):
        rollbacks_to(tmp_path, 4)


def test_every_bad_sample_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = BadSampleLog(tmp_path / "bad.jsonl")
    assert not list(tmp_path.iterdir())
    log.add((BAD, BAD), step=3)
    log.close()
    assert log.count == 2
    assert capsys.readouterr().err.count("'000000007' of a.tar, at byte 512, does not decode: broken") == 2
    assert [(row["step"], row["key"], row["offset"]) for row in rows(tmp_path / "bad.jsonl")] == [
        (3, "000000007", 512)
    ] * 2


@pytest.mark.parametrize(("bad", "consumed", "fine"), [(0, 0, True), (2, 10, True), (3, 10, False), (3, 3000, True)])
def test_the_share_is_one_of_an_epoch_or_of_what_was_consumed(bad: int, consumed: int, fine: bool) -> None:
    if fine:
        check_bad_samples(bad, consumed, samples=2000, max_bad=0.001)
    else:
        with pytest.raises(InputError, match=r"3 samples did not decode, more than --data.max-bad 0.001 of 2,000"):
            check_bad_samples(bad, consumed, samples=2000, max_bad=0.001)


@pytest.fixture
def one_broken(tmp_path: Path) -> Path:
    return make_one_broken(tmp_path / "shards", 50, 27)


def flags(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--steps", "14", *SMALL, *more]


def test_a_run_goes_on_past_one_bad_sample_and_says_so(one_broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(*flags(one_broken, out, "--data.max-bad", "0.03", "--data.audit", str(out / "audit")))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"warning: The sample '{key(27)}' of") == len(rows(out / "bad-rank-0.jsonl")) > 1
    assert rows(out / "metrics.jsonl")[-1]["data/replaced"] == len(rows(out / "bad-rank-0.jsonl"))
    trained = [name for row in rows(out / "audit" / "rank-0.jsonl") for name in row["keys"]]
    assert len(trained) == 14 * 8 and key(27) not in trained

    listed = rows(out / "bad-rank-0.jsonl")
    with (out / "bad-rank-0.jsonl").open("a") as file:  # as if killed after a step that no checkpoint holds
        file.write(json.dumps(listed[-1] | {"step": 15}) + "\n")
    again = run(*flags(one_broken, out, "--data.max-bad", "0.03", "--data.audit", str(out / "audit"), "--steps", "20"))
    assert again.returncode == 0, again.stderr
    after = [row["position"] for row in rows(out / "bad-rank-0.jsonl")]
    assert len(set(after)) == len(after) == len(listed) + again.stderr.count("warning: The sample")


def test_the_status_names_the_rank_whose_data_is_bad(one_broken: Path, tmp_path: Path) -> None:
    """Rank 0 writes it. Rank 1 meets the sample, at position 30 under this seed, and tells the launcher's store."""
    out = tmp_path / "run"
    failed = run(
        *flags(one_broken, out, "--data.strict", "--seed", "1"), env={"ACCELERATE_USE_CPU": "true"},
        launcher=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0"),
    )  # fmt: skip
    assert failed.returncode != 0
    assert failed.stderr.count(f"The sample '{key(27)}' of") == 1
    assert f"error (rank 1 on {platform.node()}): The sample" in failed.stderr
    told = status(out)
    assert told["state"] == "failed"
    assert told["error"].startswith(f"Rank 1 on {platform.node()}: The sample '{key(27)}' of")


def test_a_run_stops_where_too_many_are_bad_or_one_is_too_many(one_broken: Path, tmp_path: Path) -> None:
    many = run(*flags(one_broken, tmp_path / "many"))
    assert many.returncode == 2 and "error: 1 samples did not decode, more than --data.max-bad 0.001" in many.stderr
    assert status(tmp_path / "many")["state"] == "failed"
    strict = run(*flags(one_broken, tmp_path / "strict", "--data.strict"))
    assert strict.returncode == 2 and f"error: The sample '{key(27)}' of" in strict.stderr
    assert "does not decode" in strict.stderr
    step = status(tmp_path / "strict")["step"]
    assert step > 0 and (tmp_path / "strict" / "checkpoints" / f"step-{step:09d}").exists()
