"""Real little studies: killed, continued, and with a variant that fails."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY, patch

import pytest

from benchmarks.study.command import DCGAN
from benchmarks.study.engine import RESULTS, Row, _collect, read_rows, read_study, run_study
from benchmarks.study.job import train_and_score
from benchmarks.study.plan import Plan, Variant
from shards.common.errors import InputError
from tests.support.make import make_shards
from tests.support.ranks import preloaded
from trainer.folder.checkpoint import checkpoint_name, checkpoints, load
from trainer.folder.run_folder import RunFolder, is_locked
from trainer.folder.score_log import Result, Subject, append_scores

PRESET, *FLAGS = DCGAN
SMALL = ("--batch-size", "8", "--model.features-g", "4", "--model.features-d", "4", "--model.z-dim", "8",
         "--data.workers", "0")  # fmt: skip
ONE, TWO = Variant("one", "One step of D is enough."), Variant("two", "Two are not.", ("--d-steps", "2"))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    preloaded()
    make_shards(tmp_path / "shards", samples=110)
    return Plan(PRESET, tmp_path / "shards", tmp_path / "study", (64, 128), (*FLAGS, *SMALL), "pixels", samples=100)


def test_a_study_in_this_process_scores_two_variants_on_equal_images(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "")  # is set by the job
    for variant in (ONE, TWO):
        train_and_score(plan, variant, 0)
    positions = {}
    for variant, steps in ((ONE, [8, 16]), (TWO, [4, 8])):
        found = checkpoints(RunFolder(plan.run_folder(variant, 0)).checkpoints)
        assert [load(path)[1]["step"] for path in found] == steps
        positions[variant.name] = [load(path)[1]["position"] for path in found]
    assert positions == {"one": [64, 128], "two": [64, 128]}
    run_study(plan, (replace(TWO, also=64),), [0])  # only collects
    rows = run_study(plan, (ONE,), [0]) + read_study(plan, (TWO,))
    assert [row.key for row in rows] == [("one", 0), ("two", 0)]
    assert all(len(row.scores) == 2 and {"swd", "ms-ssim"} <= row.scores[1].keys() for row in rows)
    assert rows[0].scores[0] != rows[0].scores[1] != rows[1].scores[1]
    assert {path.name for path in (plan.out / "grids").iterdir()} == {"one.png", "two.png"}
    for variant, step in ((ONE, 16), (TWO, 4)):  # the longest mark, or that of equal time
        sheet = RunFolder(plan.run_folder(variant, 0)).samples / f"{checkpoint_name(step)}.png"
        assert (plan.out / "grids" / f"{variant.name}.png").read_bytes() == sheet.read_bytes()
    before = (plan.out / RESULTS).read_bytes()
    assert run_study(plan, (ONE, TWO), [0]) == rows and (plan.out / RESULTS).read_bytes() == before
    assert read_study(plan, (replace(ONE, name="three"), ONE, TWO)) == rows  # whatever the last call was asked for
    assert read_study(replace(plan, samples=101), (ONE, replace(TWO, flags=()))) == []


@contextmanager
def slowly() -> Iterator[None]:
    """A tenth of a second for each step, so that the run is in the middle when it is killed."""
    from trainer.gan.state import State

    def update(self: State, images: int, half_life: int) -> None:
        time.sleep(0.1)
        average(self, images, half_life)

    average = State.update_average
    with patch.object(State, "update_average", update):
        yield


def killed(plan: Plan) -> None:
    """Kills a study in the middle of its only run."""
    process = preloaded().Process(target=run_study, args=(plan, (replace(ONE, prepare=slowly),), [0]))
    process.start()
    folder, until = RunFolder(plan.run_folder(ONE, 0)), time.monotonic() + 200
    while not checkpoints(folder.checkpoints):
        assert time.monotonic() < until and process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    while is_locked(folder.path):
        assert time.monotonic() < until, "the run goes on without its study"
        time.sleep(0.01)
    assert json.loads(folder.status.read_text())["state"] == "running"
    assert not read_rows(plan.out)


def test_a_killed_study_continues_and_ends_as_an_undisturbed_one(plan: Plan) -> None:
    plan = replace(plan, marks=(8 * 40,))
    killed(plan)
    (continued,) = run_study(plan, (ONE,), [0])
    assert "from the start" not in plan.log(ONE, 0).read_text()
    (undisturbed,) = run_study(replace(plan, out=plan.out.with_name("undisturbed")), (ONE,), [0])
    assert continued.error is None and continued.scores == undisturbed.scores


@contextmanager
def no_luck() -> Iterator[None]:
    raise InputError("no luck")
    yield


@contextmanager
def a_bug() -> Iterator[None]:
    raise ZeroDivisionError("a bug")
    yield


def test_a_variant_that_fails_does_not_end_the_study_and_is_tried_again(plan: Plan) -> None:
    plan = replace(plan, marks=(16,))
    unlucky, wrong = replace(ONE, name="unlucky", prepare=no_luck), replace(ONE, name="wrong", prepare=a_bug)
    rows = {row.variant: row for row in run_study(plan, (unlucky, wrong, ONE), [0], jobs=2)}
    assert rows["unlucky"].error == "no luck" and rows["one"].error is None
    assert rows["wrong"].error == "ZeroDivisionError: a bug"
    (again,) = run_study(plan, (replace(unlucky, prepare=ONE.prepare),), [0])
    assert again.error is None


def test_results_of_other_data_or_another_precision_are_not_taken(plan: Plan, tmp_path: Path) -> None:
    plan = replace(plan, marks=(16,))
    (row,) = run_study(plan, (ONE,), [0])
    make_shards(tmp_path / "other", samples=120)
    for changes, why in (
        ({"marks": (8,)}, "was scored after"),
        ({"shards": tmp_path / "other"}, "is not the data set that the run"),
        ({"precision": "bf16"}, "was trained with mixed precision no, not bf16"),
    ):
        (other,) = run_study(replace(plan, **changes), (ONE,), [0])  # type: ignore[arg-type]
        assert other.error is not None and why in other.error and "another --out" in other.error
    assert run_study(plan, (ONE,), [0]) == [replace(row, seconds=ANY)]


def test_only_scores_of_as_many_images_as_asked_count(plan: Plan) -> None:
    """The pixels' measure compares at most 2,048 images, and no more than there are real ones; others take all."""
    plan = replace(plan, marks=(16,), samples=5000, features="labels, pixels")
    asked, folder = plan.describe(ONE, 1), plan.run_folder(ONE, 1)
    folder.mkdir(parents=True)

    def collect(**samples: int) -> Row:
        subject = Subject(checkpoint="step-000000002", step=2, position=16, weights="averaged", batch_norm="none")
        results = [
            Result(**vars(subject), features=name, resize="", samples=count, reals=count, data=data, scores={name: 1.0})
            for name, count in samples.items()
            for data in (asked["data"], "other")
        ]
        RunFolder(folder).scores.unlink(missing_ok=True)
        append_scores(RunFolder(folder).scores, results)
        return _collect(plan, ONE, 1, 0.0, asked, None)

    assert collect(labels=5000, pixels=110).scores == ({"labels": 1.0, "pixels": 1.0},)
    for wrong in ({"labels": 2048}, {"labels": 110}, {"pixels": 5000}, {"lite0": 5000}):
        assert collect(**wrong).error is not None


def test_a_torn_line_is_dropped_and_a_foreign_one_told(tmp_path: Path) -> None:
    row = Row("one", 0, {"steps": 3}, ({"swd": 1.0},))
    line = json.dumps(vars(row))
    (tmp_path / RESULTS).write_text(f"{line}\n{line[:20]}")
    assert read_rows(tmp_path) == [row]
    (tmp_path / RESULTS).write_text('{"step": 3}\n')
    with pytest.raises(InputError, match="Move it away"):
        read_rows(tmp_path)
