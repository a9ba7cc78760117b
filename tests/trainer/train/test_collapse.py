"""A training that goes wrong goes back to its best checkpoint if it is asked to, with other latents."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.run
from tests.support.launching import SMALL, keys, status
from tests.support.ranks import on_ranks
from trainer.folder import checkpoint
from trainer.gan.step import Metrics
from trainer.train.loop import MOST_ROLLBACKS
from trainer.train.session import Session
from trainer.watch import health

BAD = 5  # the step that goes wrong


def attempt(words: list[str], times: int = 0, kind: str = "nan") -> tuple[int, str]:
    """Train on this rank. The first ``times`` that it reaches ``BAD``, the generator becomes NaN, or the loss 0."""
    advance, spoilt = Session.advance, 0

    def spoil(self: Session, batches: Sequence[Any], *, report: bool) -> Metrics:
        nonlocal spoilt
        metrics = advance(self, batches, report=report)
        if self.state.step == BAD and spoilt < times:
            spoilt += 1
            if kind == "nan":
                with torch.no_grad():
                    next(self.state.generator.parameters()).fill_(torch.nan)
        if kind == "zero" and spoilt and spoilt <= times and self.state.rollbacks < times:
            metrics["loss/d"].zero_()
        return metrics

    Session.advance = spoil  # type: ignore[method-assign]  # this process ends after it
    health.ZERO_STEPS = 1
    trainer.run.GRACE = 0.0
    sys.argv = ["trainer/run.py", *words]
    with contextlib.redirect_stderr(io.StringIO()) as said, warnings.catch_warnings():
        try:
            trainer.run.main()
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    return 0, said.getvalue()


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
    assert "Back to step 4, with other latents: " in said
    assert status(out)["state"] == "done" and status(out)["step"] == 8
    (line,) = [json.loads(line) for line in (out / "rollbacks.jsonl").read_text().splitlines()]
    assert (line["step"], line["position"]) == (4, 32) and line["cause"]
    assert keys(out) == keys(healthy)  # each sample counts once
    for rank in range(ranks):
        audit = [json.loads(line) for line in (out / "audit" / f"rank-{rank}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in audit if "rollback" in row] == [4]
    if ranks == 1:
        assert not equal(out, healthy)  # other latents make other weights


def test_what_went_back_resumes_exactly(faces32: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ("--on-collapse", "rollback")
    assert on_ranks(1, attempt, words(faces32, whole, *more), 1)[0][0] == 0
    assert on_ranks(1, attempt, words(faces32, parts, *more, "--steps", "6"), 1)[0][0] == 0
    assert on_ranks(1, attempt, words(faces32, parts, *more))[0][0] == 0
    assert equal(whole, parts)


def test_a_run_goes_back_three_times_at_most(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = on_ranks(1, attempt, words(faces32, out, "--on-collapse", "rollback"), 10)[0]
    assert code == 2 and said.count("with other latents") == MOST_ROLLBACKS
    assert said.count("error: ") == 1 and status(out)["state"] == "failed"
    assert [path.name for path in checkpoint.checkpoints(out / "checkpoints")][-1] == "step-000000004"


def test_a_run_stops_if_it_is_asked_to(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = on_ranks(1, attempt, words(faces32, out, "--on-collapse", "stop"), 1, "zero")[0]
    assert code == 2 and "the discriminator's loss has been 0" in said and said.count("error: ") == 1
    assert status(out)["state"] == "failed"


def test_a_run_goes_on_with_a_warning_otherwise(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, said = on_ranks(1, attempt, words(faces32, out), 1, "zero")[0]
    assert code == 0 and said.count("warning: step 6: the discriminator's loss has been 0") == 1
    assert status(out)["state"] == "done"
