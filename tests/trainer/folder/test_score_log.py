"""Which checkpoint is the best, of which results may be compared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.folder.checkpoint import checkpoint_name
from trainer.folder.journal import roll_back
from trainer.folder.run_folder import CHECKSUMS, RunFolder, digest
from trainer.folder.score_log import (
    Result,
    append_scores,
    as_table,
    best,
    comparable,
    curves,
    find_best,
    lacks_scores,
    newest,
    read_scores,
)


def result(step: int, *, samples: int = 1000, data: str = "own", **scores: float) -> Result:
    named = {name.replace("_", "-"): value for name, value in scores.items()}
    return Result(checkpoint=checkpoint_name(step), step=step, position=8 * step, weights="averaged", batch_norm="none",
                  features="x", resize="none", samples=samples, reals=samples, data=data, scores=named)  # fmt: skip


TRAINING = [result(2, swd=330), result(4, swd=311), result(6, swd=255), result(8, swd=260)]


def chosen(results: list[Result], **more: Any) -> tuple[str, int] | None:
    found = best(results, **more)
    return (found[0], found[1].step) if found else None


@pytest.mark.parametrize(
    "by_hand", [result(4, samples=10_000, swd=300), result(4, data="test", swd=10), result(4, fid=1), result(2, fd_x=1)]
)
def test_one_evaluation_by_hand_does_not_replace_those_of_the_run(by_hand: Result) -> None:
    """With more samples, of other images, or of a preferred score."""
    assert chosen([*TRAINING[:2], by_hand, *TRAINING[2:]]) == ("swd", 6)
    assert curves([*TRAINING, by_hand])["swd"] == {8 * old.step: old.scores["swd"] for old in TRAINING}


def test_the_preferred_score_judges_where_all_checkpoints_have_it() -> None:
    by_hand = [result(old.step, fid=old.step) for old in TRAINING]
    assert chosen([*TRAINING, *by_hand]) == ("fid", 2)
    assert chosen([*TRAINING, *by_hand], by="swd") == ("swd", 6)
    assert chosen(TRAINING, by="fid") == ("swd", 6)  # which nobody has computed
    assert chosen([result(2, ms_ssim=1), result(4, swd=float("nan"))]) is None


def test_the_last_score_of_a_checkpoint_counts() -> None:
    assert chosen([*TRAINING, result(6, swd=500)]) == ("swd", 8)


@given(
    st.lists(st.builds(result, st.integers(1, 5), samples=st.sampled_from([100, 200]), swd=st.floats(0, 9)), min_size=1)
)
def test_compared_results_answer_one_question_about_different_checkpoints(results: list[Result]) -> None:
    found = comparable(results, "swd")
    assert len({each.question for each in found}) == 1
    asked = {each.question: {other.step for other in results if other.question == each.question} for each in results}
    assert len(found) == len({each.step for each in found}) == max(map(len, asked.values()))


def test_only_checkpoints_that_exist_are_best(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (2, 4):
        (folder.checkpoints / checkpoint_name(step)).mkdir(parents=True)
    found = find_best(folder, TRAINING, None)
    assert found is not None and found[1].step == 4


def test_a_checkpoint_that_was_written_again_has_none_of_its_old_scores(tmp_path: Path) -> None:
    """One without a digest, of an earlier version, counts; so does one whose checkpoint cannot be read."""
    folder = RunFolder(tmp_path)
    for step in (2, 4, 6):
        (folder.checkpoints / checkpoint_name(step)).mkdir(parents=True)
        (folder.checkpoints / checkpoint_name(step) / CHECKSUMS).write_text(str(step))
    first, own = (digest(folder.checkpoints / checkpoint_name(step)) for step in (2, 6))

    def found(*results: Result) -> int | None:
        best = find_best(folder, results, None)
        return best[1].step if best else None

    old = replace(TRAINING[2], digest="old")
    assert found(*TRAINING[:2], old) == 4 and found(*TRAINING[:3]) == found(TRAINING[1], replace(old, digest=own)) == 6
    assert lacks_scores([old], 6, own, ["x"]) and not lacks_scores(TRAINING, 6, own, ["x"])
    assert not lacks_scores([replace(old, digest=own)], 6, own, ["x"]) and lacks_scores(TRAINING, 6, own, ["x", "y"])
    (folder.checkpoints / checkpoint_name(6) / CHECKSUMS).unlink()
    assert found(replace(TRAINING[0], digest=first), old) == 6


def test_a_training_that_goes_back_waits_for_those_who_append(tmp_path: Path) -> None:
    """Else it would cut what they write, or leave results of what it removed."""
    path = tmp_path / "scores.jsonl"
    append_scores(path, TRAINING)
    with ThreadPoolExecutor(1) as pool:
        going = []

        def go_back() -> bool:
            going.append(pool.submit(roll_back, path, 4, keep_damaged=True))
            with pytest.raises(TimeoutError):
                going[0].result(0.1)
            return False

        append_scores(path, [result(4, swd=1), result(8, swd=2)], go_back)
        going[0].result()
    assert read_scores(path) == [*TRAINING[:2], result(4, swd=1)]


def test_outdated_results_are_not_appended(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    assert append_scores(path, TRAINING[:1]) and not append_scores(path, TRAINING[1:2], lambda: True)
    assert read_scores(path) == TRAINING[:1]


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        ('{"swd": 330}', "null"),
        ('{"swd": 330}', "[]"),
        ('{"swd": 330}', '{"swd": "low"}'),
        ('{"swd": 330}', "{}"),
        (', "scores": {"swd": 330}', ""),
        ("330", f"{10**400}"),
        ('"position": 16', '"position": "16"'),
        ('"samples": 1000, ', ""),
        ('"samples"', '"of another version": 1, "samples"'),
        ("{", ""),
    ],
)
def test_what_is_no_result_is_left_out_and_stays_in_the_file(
    tmp_path: Path, whole: str, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.jsonl"
    append_scores(path, TRAINING[:1])
    text = path.read_text()
    assert whole in text
    path.write_text(text + text.replace(whole, damaged, 1) + text[:-9])
    append_scores(path, TRAINING[1:2])
    assert read_scores(path) == read_scores(path) == TRAINING[:2]
    assert capsys.readouterr().err == f"warning: {path}: lines 2, 3 are damaged and left out.\n"
    assert path.read_text().startswith(text + text.replace(whole, damaged, 1) + text[:-9])


def test_the_newest_scores_are_those_against_the_runs_own_images() -> None:
    by_hand = [result(8, data="test", swd=1), result(8, samples=10_000, swd=2), result(2, swd=320, kid=7)]
    assert newest([*TRAINING, *by_hand], "own") == ("step-000000008", {"swd": 260})
    assert newest([*by_hand[:1], *TRAINING[:1]], "own") == ("step-000000002", {"swd": 330})
    for data in ("lost", None):
        assert newest(by_hand[:1], data) == ("step-000000008", {"swd": 1})
    assert newest([], "own") is None


def test_the_newest_scores_may_be_of_other_numbers_of_images() -> None:
    """As after a change of --evaluate.samples."""
    now = [result(10, samples=5000, swd=250, kid=float("nan")), result(10, samples=5000, fid=4)]
    assert newest([*TRAINING, *now], "own") == ("step-000000010", {"swd": 250, "fid": 4})
    assert newest([*TRAINING, result(10, swd=float("nan"))], "own") == ("step-000000008", {"swd": 260})


def test_the_table_names_classes_that_are_more_than_numbers() -> None:
    table = as_table([result(2, class_coverage=0.5, class_0=0.25, agreement_1=0.75, class_2=0.1)], ("cat", "1"))
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["class-coverage", "0.5"], ["class-0", "cat", "0.25"], ["agreement-1", "0.75"], ["class-2", "0.1"]
    ]  # fmt: skip
    assert len({len(line) for line in table.splitlines()}) == 1
