"""Estimates of memory against what PyTorch's allocator says, and a training that has too little."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.support.launching import SMALL, status
from tests.support.ranks import train_here
from tests.trainer.gan.test_step import (
    BATCH,
    COARSE,
    classes_of,
    conditional,
    create,
    drawn,
    in_parts,
    labelled,
    noise,
    penalised,
    reals,
    small,
)
from trainer.config import Config, Kind
from trainer.gan.step import Step
from trainer.train.memory import estimate_memory

MB = 10**6
CONFIGS = {
    "batch norm": small(),
    "coarse": COARSE,
    "parts": replace(COARSE, accumulate=4),
    "classes": conditional(COARSE),
    "d-steps": small(d_steps=2),
    "float64": small(dtype="float64"),
    **{kind: penalised(model=replace(COARSE.model, kind=kind, coarse_d=False)) for kind in get_args(Kind)},
}


def most_allocated(config: Config) -> int:
    """Bytes that the allocator gave out at once in two steps, those inside of operations included."""
    _, step = create(config)
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        for _ in range(2):
            batches = [[batch(n, dtype) for n in range(config.d_steps)] for batch in (reals, noise)]
            more = [[values for _ in range(config.d_steps) for values in of(config, 0)] for of in (drawn, labelled)]
            step(*[in_parts(config, column) for column in (*batches, *more)], report=True)
    events: Any = recorded.profiler
    changes = [event for event in events.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        now += change.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("name", CONFIGS)
def test_the_estimate_is_what_the_allocator_gives_out(name: str) -> None:
    """To a quarter, or 4 MB, which operations take for themselves."""
    config = CONFIGS[name]
    memory = estimate_memory(config, 64, 3, classes=classes_of(config))
    counted, real = memory.gradients + memory.activations, most_allocated(config)
    assert real - max(4 * MB, real / 4) < counted < 1.1 * real
    state, _ = create(config)
    assert memory.state == sum(t.nbytes for tensors in state.tensors().values() for t in tensors.values())


def test_parts_and_ranks_share_the_activations() -> None:
    whole = estimate_memory(replace(COARSE, batch_size=64), 64, 3)
    parts = estimate_memory(replace(COARSE, batch_size=64, accumulate=4), 64, 3)
    ranks = estimate_memory(replace(COARSE, batch_size=64), 64, 3, ranks=4)
    assert (whole.images, parts.images, ranks.images) == (64, 16, 16)
    assert ranks.activations < parts.activations < 0.5 * whole.activations  # a rank has the whole batch of real images
    assert whole.state == parts.state == ranks.state


@pytest.mark.parametrize(
    ("kind", "step", "flag", "refused"),
    [
        ("dcgan", 0, ("--accumulate", "2"), None),
        ("dcgan", 2, ("--batch-size", "4"), ("--accumulate", "2")),
        ("mlp", 2, ("--accumulate", "2"), ("--model.features-g", "2")),
    ],
)
def test_a_training_that_gets_no_memory_ends_with_one_line_of_advice_that_helps(
    faces32: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    step: int,
    flag: tuple[str, str],
    refused: tuple[str, str] | None,
) -> None:
    """And keeps what it trained before. What the run would refuse at its next start needs another folder."""
    update = Step.update

    def take_all(self: Step, *batches: Any, report: bool) -> Any:
        return torch.empty(2**50) if self.state.step == step else update(self, *batches, report=report)

    monkeypatch.setattr(Step, "update", take_all)
    flags = [*SMALL, "--data.shards", str(faces32), "--out", str(tmp_path), "--data.workers", "0", "--steps", "4"]
    flags += ["--checkpoint.every", "1", "--model.kind", kind]
    code, said = train_here(flags)
    line = said.splitlines()[-1]
    assert code == 2 and line.startswith(f"error: There is not enough memory ({4 * 2**50} bytes more were needed). ")
    assert "Traceback" not in said and line.endswith(" need another --out. --dry-run estimates it.")
    advised, elsewhere = line.split("; ")
    assert flag[0] in advised
    found = status(tmp_path)
    assert (found["state"], found["step"]) == ("failed", step)
    monkeypatch.undo()
    if refused:
        assert refused[0] not in advised and train_here([*flags, *refused])[0] == 2
    assert "--accumulate" in (elsewhere if kind == "dcgan" and step else advised)
    assert train_here([*flags, *flag])[0] == 0


def test_a_dry_run_says_how_much_it_takes() -> None:
    text = str(estimate_memory(replace(small(), batch_size=BATCH), 64, 3))
    assert all(part in text for part in (" MB a rank: ", "Adam ", "gradients ", "activations ", " MB an image)"))
