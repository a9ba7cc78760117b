"""A training that goes wrong goes back to its best checkpoint if it is asked to, with other latents."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.launching import SMALL, keys, status
from tests.support.make import make_one_broken
from tests.support.ranks import on_ranks, train_here
from trainer.folder import checkpoint
from trainer.folder.journal import BadSampleLog
from trainer.folder.known_scores import KnownScores
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import Result, append_scores, read_scores
from trainer.gan.step import Metrics
from trainer.train import prepare
from trainer.train.loop import MOST_ROLLBACKS
from trainer.train.outputs import Outputs
from trainer.train.session import Session
from trainer.watch import health
from trainer.watch.meter import DataAdvisor
from trainer.watch.progress import Progress

BAD = 5  # the step that goes wrong


def attempt(words: list[str], times: int = 0, kind: str = "nan", best: int = 0) -> tuple[int, str]:
    """Train on this rank. The first ``times`` that it reaches ``BAD``, the generator becomes NaN, or the loss 0.

    Before the second time, step ``best`` gets a score, if it is given.
    """
    advance, spoilt = Session.advance, 0

    def spoil(self: Session, batches: Sequence[Any], *, report: bool) -> Metrics:
        nonlocal spoilt
        metrics = advance(self, batches, report=report)
        if self.state.step == BAD and spoilt < times:
            spoilt += 1
            if kind in ("nan", "torn"):
                with torch.no_grad():
                    next(self.state.generator.parameters()).fill_(torch.nan)
            if kind == "torn":
                self.checkpoints.wait()
                (checkpoint.checkpoints(self.outputs.folder.checkpoints)[-1] / "average.safetensors").write_bytes(b"")
            if best and spoilt == 2:
                append_scores(self.outputs.folder.scores, [score_of(best)])
        if kind == "zero" and spoilt and spoilt <= times and self.state.rollbacks < times:
            metrics["loss/d"].zero_()
        return metrics

    Session.advance = spoil  # type: ignore[method-assign]  # this process ends after it
    health.ZERO_STEPS = 1
    return train_here(words)


def score_of(step: int) -> Result:
    return Result(
        checkpoint=checkpoint.checkpoint_name(step), step=step, position=8 * step, weights="averaged",
        batch_norm="none", features="pixels", resize="none", samples=100, reals=100, data="", scores={"swd": 1.0},
    )  # fmt: skip


def create_outputs(path: Path) -> Outputs:
    folder = RunFolder(path)
    return Outputs(folder=folder, known_scores=KnownScores(folder, {}), progress=Progress(0, 1, shown=False),
                   tracker=None, audit=None, bad_samples=BadSampleLog(path / "bad.jsonl"),
                   advisor=DataAdvisor(0, "jpg", False, 1))  # fmt: skip


def words(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--data.workers", "0", *SMALL, "--log-every", "1",
            "--checkpoint.every", "2", "--steps", "8", "--data.audit", str(out / "audit"), *more]  # fmt: skip


def tensors(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoint.load(checkpoint.checkpoints(out / "checkpoints")[-1])[0]


def equal(left: Path, right: Path) -> bool:
    return all(
        torch.equal(value, tensors(right)[group][name])
        for group, values in tensors(left).items()
        for name, value in values.items()
    )


@pytest.fixture(scope="module")
def healthy(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("healthy") / "run"
    assert on_ranks(1, attempt, words(faces32, out))[0][0] == 0
    return out


@pytest.mark.parametrize(("ranks", "kind"), [(1, "nan"), (2, "nan"), (1, "zero")])
def test_a_run_goes_back_and_on(faces32: Path, tmp_path: Path, healthy: Path, ranks: int, kind: str) -> None:
    out = tmp_path / "run"
    results = on_ranks(ranks, attempt, words(faces32, out, "--on-collapse", "rollback"), 1, kind)
    assert [code for code, _ in results] == [0] * ranks, results
    said = results[0][1]
    assert said.count("with other latents") == 1
    (line,) = [line for line in said.splitlines() if line.startswith("Back to step 4, with other latents: ")]
    assert "another --out" not in line  # the advice is for a run that ends
    assert status(out)["state"] == "done" and status(out)["step"] == 8
    (row,) = [json.loads(line) for line in (out / "rollbacks.jsonl").read_text().splitlines()]
    assert (row["step"], row["position"], row["rollbacks"]) == (4, 32, 1) and row["cause"] in line
    assert keys(out) == keys(healthy)  # each sample counts once
    for rank in range(ranks):
        audit = [json.loads(line) for line in (out / "audit" / f"rank-{rank}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in audit if "rollback" in row] == [4]
    if ranks == 1:
        assert not equal(out, healthy)  # other latents make other weights


@pytest.mark.parametrize(("times", "best", "back"), [(1, 0, [4]), (2, 2, [2])])
def test_what_went_back_resumes_exactly(faces32: Path, tmp_path: Path, times: int, best: int, back: list[int]) -> None:
    """Also after a second return, to a step before that of the first one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ("--on-collapse", "rollback")
    assert on_ranks(1, attempt, words(faces32, whole, *more), times, "nan", best)[0][0] == 0
    assert on_ranks(1, attempt, words(faces32, parts, *more, "--steps", "6"), times, "nan", best)[0][0] == 0
    assert on_ranks(1, attempt, words(faces32, parts, *more))[0][0] == 0
    for out in (whole, parts):
        rows = [json.loads(line) for line in (out / "rollbacks.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == back and rows[-1]["rollbacks"] == times
    assert equal(whole, parts)


def test_a_run_that_is_killed_after_its_return_draws_the_same_latents(faces32: Path, tmp_path: Path) -> None:
    """It resumes from the checkpoint that it returned to, which was written before."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ("--on-collapse", "rollback")
    assert on_ranks(1, attempt, words(faces32, whole, *more), 2, "nan", 2)[0][0] == 0
    assert on_ranks(1, attempt, words(faces32, killed, *more), 2, "nan", 2)[0][0] == 0
    for path in checkpoint.checkpoints(killed / "checkpoints")[1:]:
        shutil.rmtree(path)
    assert on_ranks(1, attempt, words(faces32, killed, *more))[0][0] == 0
    assert equal(whole, killed)


def start_blind(words: list[str]) -> tuple[int, str]:
    """Train on this rank; the second one finds no journal of rollbacks."""
    if os.environ["RANK"] == "1":
        prepare.rollbacks_to = lambda *_: 0  # this process ends after it
    return train_here(words)


def test_ranks_never_draw_other_latents(faces32: Path, healthy: Path, tmp_path: Path) -> None:
    """They depend on the number of rollbacks, which each rank reads for itself."""
    out = tmp_path / "run"
    shutil.copytree(healthy, out)
    (out / "rollbacks.jsonl").write_text('{"step": 8, "rollbacks": 1}\n')
    results = on_ranks(2, start_blind, words(faces32, out, "--steps", "10"))
    assert [code for code, _ in results] == [2, 2] and "\n  rollbacks: 1 there, 0 here\n" in results[0][1], results
    (out / "rollbacks.jsonl").unlink()
    (out / "rollbacks.jsonl").mkdir()
    results = on_ranks(2, train_here, words(faces32, out, "--steps", "10"))
    assert [code for code, _ in results] == [2, 2] and "rollbacks.jsonl cannot be read (Is a dir" in results[0][1]


def test_a_torn_checkpoint_is_passed_over(faces32: Path, tmp_path: Path) -> None:
    code, said = on_ranks(1, attempt, words(faces32, tmp_path, "--on-collapse", "rollback"), 1, "torn")[0]
    assert code == 0 and said.count("Back to step 2, with other latents: ") == 1, said
    assert status(tmp_path)["state"] == "done"


def test_a_run_returns_to_before_its_problem_began(tmp_path: Path) -> None:
    """Without scores, checkpoints of a collapsed training are newer. A best one that is gone is none."""
    folder, outputs = RunFolder(tmp_path), create_outputs(tmp_path)
    for step in (2, 4, 6):
        (folder.checkpoints / checkpoint.checkpoint_name(step)).mkdir(parents=True)

    def steps(since: int) -> list[int]:
        return [int(name[5:]) for name in outputs.checkpoints_to_return_to(None, since)]

    assert steps(7) == [6, 4, 2] and steps(5) == [4, 2] and steps(4) == [2] and steps(2) == []
    append_scores(folder.scores, [score_of(8), score_of(2), replace(score_of(6), scores={"swd": 0.5})])
    assert steps(7) == [6, 4, 2] and steps(5) == [2, 4]  # of those from before the problem, the best one


def test_a_run_goes_back_three_times_at_most(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = on_ranks(1, attempt, words(faces32, out, "--on-collapse", "rollback"), 10)[0]
    assert code == 2 and said.count("with other latents") == MOST_ROLLBACKS
    assert said.count("error: ") == 1 and status(out)["state"] == "failed"
    assert "The run went back 3 times already" in said.splitlines()[-1]
    assert [path.name for path in checkpoint.checkpoints(out / "checkpoints")][-1] == "step-000000004"


def test_a_run_without_a_checkpoint_says_that_it_cannot_go_back(faces32: Path, tmp_path: Path) -> None:
    more = ("--on-collapse", "rollback", "--checkpoint.every", "100", "--evaluate.every", "0")
    code, said = on_ranks(1, attempt, words(faces32, tmp_path / "run", *more), 1, "nan")[0]
    assert code == 2 and "There is no whole checkpoint from before it to go back to." in said.splitlines()[-1], said


def test_a_run_stops_if_it_is_asked_to(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = on_ranks(1, attempt, words(faces32, out, "--on-collapse", "stop"), 1, "zero")[0]
    assert code == 2 and "the discriminator's loss has been 0" in said and said.count("error: ") == 1
    assert status(out)["state"] == "failed"


@pytest.mark.parametrize(("how", "by"), [("stop", "fid"), ("rollback", "swd"), ("warn", "swd")])
def test_what_went_wrong_before_a_kill_is_not_forgotten(
    faces32: Path, healthy: Path, tmp_path: Path, how: str, by: str
) -> None:
    """Its checkpoint and its scores were written, and a rollback was not. Nobody has computed the ``fid``."""
    out, scores = tmp_path / "run", {2: 2.0, 4: 1.0, 5: 9.0, 6: 9.0, 8: 9.0}
    shutil.copytree(healthy, out)
    append_scores(
        out / "scores.jsonl", [replace(score_of(step), scores={"swd": value}) for step, value in scores.items()]
    )
    more = ("--on-collapse", how, "--evaluate.by", by, "--steps", "10")
    code, said = on_ranks(1, attempt, words(faces32, out, *more), 0)[0]
    problem = "swd has been far worse than its best for 3 evaluations: 9, once 1"
    if how == "stop":
        assert code == 2 and said.count(f"error: Step 8: {problem}.") == 1 and status(out)["state"] == "failed"
    else:
        assert code == 0 and status(out)["step"] == 10 and said.count("Back to step 4, ") == (how == "rollback")
        assert status(out).get("warnings", []) == ([f"step 8: {problem}"] if how == "warn" else [])


@pytest.mark.parametrize("how", ["stop", "warn"])
def test_what_went_wrong_at_the_last_step_is_not_forgotten(
    faces32: Path, healthy: Path, tmp_path: Path, how: str
) -> None:
    out, scores = tmp_path / "run", {2: 1.0, 4: 9.0, 6: 9.0, 8: 9.0}
    shutil.copytree(healthy, out)
    append_scores(
        out / "scores.jsonl", [replace(score_of(step), scores={"swd": value}) for step, value in scores.items()]
    )
    (out / "status.json").write_text(json.dumps({"state": "running", "step": 8, "position": 64}))
    again = words(faces32, out, "--on-collapse", how)
    results = [on_ranks(1, attempt, again, 0)[0] for _ in range(2)]
    assert [code for code, _ in results] == [2 if how == "stop" else 0] * 2
    assert status(out)["state"] == ("failed" if how == "stop" else "done")
    assert status(out)["warnings"], "what ended before keeps its status"
    assert ("Done already" in results[1][1]) == (how == "warn")


def test_a_training_is_judged_by_evaluations_like_its_own(faces32: Path, tmp_path: Path) -> None:
    """Not by those of more images, which would count alone."""
    again = words(faces32, tmp_path, "--on-collapse", "stop", "--evaluate.samples", "100", "--evaluate.features",
                  "pixels", "--data.cache", str(tmp_path / "cache"))  # fmt: skip
    assert on_ranks(1, attempt, again)[0][0] == 0
    (own,) = read_scores(tmp_path / "scores.jsonl")

    def resume(collapsed: int) -> int:
        """The exit code, if the scores of so many images are those of a collapse, the others of a training."""
        (tmp_path / "scores.jsonl").unlink()
        for samples, step in product((100, 200), (2, 4, 6, 8)):
            asked = replace(own, samples=samples, checkpoint=checkpoint.checkpoint_name(step), step=step)
            swd = 9.0 if samples == collapsed and step > 2 else 1.0
            append_scores(tmp_path / "scores.jsonl", [asked.with_scores({"swd": swd})])
        RunFolder(tmp_path).write_status("running", 8, 64)
        code: int = on_ranks(1, attempt, again)[0][0]
        return code

    assert resume(200) == 0 and resume(100) == 2


def test_bad_samples_before_a_return_count_no_more(tmp_path: Path) -> None:
    """One sample of ten is broken: every eighth, tenth or so of those consumed, but more of those since the return."""
    shards = make_one_broken(tmp_path / "shards", 10, 7)
    more = ("--on-collapse", "rollback", "--data.max-bad", "0.13")
    code, said = on_ranks(1, attempt, words(shards, tmp_path / "run", *more), 1)[0]
    assert code == 0 and "Back to step 4, " in said and "replaces it" in said


def test_a_run_goes_on_with_a_warning_otherwise(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = on_ranks(1, attempt, words(faces32, out), 1, "zero")[0]
    assert code == 0 and said.count("warning: step 6: the discriminator's loss has been 0") == 1
    assert status(out)["state"] == "done" and status(out)["warnings"][0].startswith("step 6: ")
    code, said = on_ranks(1, attempt, words(faces32, out, "--steps", "10"), 0)[0]
    assert code == 0 and "warning: step" not in said  # it is named once
    assert status(out)["step"] == 10 and status(out)["warnings"][0].startswith("step 6: ")
