"""A training and all commands know the same scores, also after the file of scores was damaged or lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.folder.test_score_log import TRAINING, result
from trainer.folder.checkpoint import checkpoint_name, remove
from trainer.folder.known_scores import KnownScores
from trainer.folder.run_folder import CHECKSUMS, RunFolder
from trainer.folder.score_log import append_scores, find_best, read_scores

BEST = {"checkpoint": "step-000000006", "judge": "swd", "value": 255.0}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Four checkpoints with scores."""
    folder = RunFolder(tmp_path)
    for step in (2, 4, 6, 8):
        (folder.checkpoints / checkpoint_name(step)).mkdir(parents=True)
    append_scores(folder.scores, TRAINING)
    return folder


def recorded(known: KnownScores) -> dict[str, Any]:
    """What a checkpoint that is written now says."""
    facts: dict[str, Any] = json.loads(json.dumps(known.record(None)))
    return facts


def best_of_file(folder: RunFolder) -> str | None:
    """The checkpoint that ``--checkpoint best`` means."""
    found = find_best(folder, read_scores(folder.scores), None)
    return found[1].checkpoint if found else None


def damage(folder: RunFolder, *numbers: int) -> None:
    lines = folder.scores.read_text().splitlines(keepends=True)
    folder.scores.write_text("".join("?\n" if number in numbers else line for number, line in enumerate(lines)))


def test_a_line_that_is_damaged_later_is_still_known_also_after_a_resume(folder: RunFolder) -> None:
    known = KnownScores(folder, {})
    facts = recorded(known)
    assert facts["best"] == BEST
    damage(folder, 2)
    assert recorded(KnownScores(folder, {}))["best"]["checkpoint"] == "step-000000008"
    assert recorded(known) == recorded(KnownScores(folder, facts)) == facts


def test_damage_does_not_change_which_score_judges(folder: RunFolder) -> None:
    """The one that most checkpoints have."""
    append_scores(folder.scores, [result(each.step, kd_lite0=each.step, recall=0.5) for each in TRAINING])
    facts = recorded(KnownScores(folder, {}))
    assert facts["best"] == {"checkpoint": "step-000000002", "judge": "kd-lite0", "value": 2.0}
    damage(folder, 6, 7)
    assert recorded(KnownScores(folder, {}))["best"] == BEST
    assert recorded(KnownScores(folder, facts)) == facts
    best = KnownScores(folder, facts).record("swd")["best"]  # a resume may choose another
    assert best == BEST


def test_a_read_that_fails_loses_nothing(folder: RunFolder) -> None:
    known = KnownScores(folder, {})
    facts = recorded(known)
    folder.scores.unlink()
    folder.scores.mkdir()
    assert recorded(known) == facts
    folder.checkpoints.rename(folder.path / "away")
    folder.checkpoints.symlink_to(folder.checkpoints)  # which cannot be listed
    assert recorded(known) == facts


def test_a_score_that_is_removed_from_a_whole_file_is_forgotten(folder: RunFolder) -> None:
    """Because it was wrong."""
    known = KnownScores(folder, {})
    facts = recorded(known)
    lines = folder.scores.read_text().splitlines(keepends=True)
    folder.scores.write_text("".join(lines[:2] + lines[3:]))
    for each in (known, KnownScores(folder, facts)):
        assert recorded(each)["best"]["checkpoint"] == best_of_file(folder) == "step-000000008"


@pytest.mark.parametrize("lost", ["all", "a line"])
def test_what_the_file_lost_is_written_into_it_again(folder: RunFolder, lost: str) -> None:
    """Whole, before anything else is: a new file would not show what it lacks."""
    folder.scores.unlink()
    append_scores(folder.scores, [*TRAINING[:2], result(6, swd=255, recall=0.5)])
    facts = recorded(KnownScores(folder, {}))
    folder.scores.unlink() if lost == "all" else damage(folder, 2)
    known = KnownScores(folder, facts)
    known.append([TRAINING[3]])
    assert best_of_file(folder) == "step-000000006"
    assert {each.step: each for each in read_scores(folder.scores)} == {each.step: each for each in known.read()}
    before = folder.scores.read_text()
    assert recorded(KnownScores(folder, facts))["best"] == BEST and folder.scores.read_text() == before


def test_the_best_of_each_number_of_images_is_protected(folder: RunFolder) -> None:
    known = KnownScores(folder, {})
    known.append([result(2, samples=5000, swd=9), result(8, samples=5000, swd=8), result(4, samples=5000, fid=1)])
    assert known.protected(None) == {"step-000000006", "step-000000008"}
    assert known.protected("fid") == {"step-000000004"}
    remove(folder.checkpoints / checkpoint_name(6))
    known.read()
    assert known.protected(None) == {"step-000000008"}


def test_a_better_score_of_another_process_counts(folder: RunFolder) -> None:
    known = KnownScores(folder, recorded(KnownScores(folder, {})))
    append_scores(folder.scores, [result(4, swd=3), result(8, samples=10_000, swd=1)])  # the second compares with none
    assert recorded(known)["best"] == {**BEST, "checkpoint": "step-000000004", "value": 3.0}


def test_what_is_removed_or_written_again_is_forgotten(folder: RunFolder) -> None:
    """As by a training that goes back."""
    known = KnownScores(folder, {})
    known.append([replace(TRAINING[2], digest="old", scores={"swd": 1.0})])
    folder.scores.unlink()
    remove(folder.checkpoints / checkpoint_name(8))
    (folder.checkpoints / checkpoint_name(6) / CHECKSUMS).write_text("again")
    assert [each.step for each in known.read()] == [2, 4, 6]  # a result without a digest may be of it
    remove(folder.checkpoints / checkpoint_name(6))
    assert recorded(known)["best"] == {**BEST, "checkpoint": "step-000000004", "value": 311.0}


@pytest.mark.parametrize("metadata", [{}, {"scores": None}, {"scores": [{"step": 2}]}, {"scores": [2]}])
def test_the_metadata_of_another_version_say_nothing(folder: RunFolder, metadata: dict[str, Any]) -> None:
    assert recorded(KnownScores(folder, metadata))["best"] == BEST
    folder.scores.unlink()
    assert recorded(KnownScores(folder, metadata)) == {"best": None, "scores": []}


def test_a_score_that_is_not_finite_judges_nothing(folder: RunFolder) -> None:
    folder.scores.unlink()
    append_scores(folder.scores, [result(2, swd=float("nan"), recall=0.5)])
    assert recorded(KnownScores(folder, {})) == {"best": None, "scores": []}
