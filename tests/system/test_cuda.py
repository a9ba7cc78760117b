"""What only a GPU can show: its own synchronised BatchNorm, fp16 and bf16, and a run that moves to the CPU and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from tests.conftest import NO_GPU
from tests.support.launching import SMALL, rows, run, status
from tests.support.ranks import on_ranks
from tests.trainer.gan.test_step import create, manifest, noise, reals, small
from tests.trainer.ranks.test_process_group import mean, train
from tests.trainer.ranks.test_process_group import rows as rows_of_rank
from trainer.gan.state import create_state
from trainer.gan.step import Step
from trainer.ranks.launch import read_launch
from trainer.ranks.process_group import create_accelerator, wrap

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_GPU)

STEPS = 5


def in_float64() -> Any:
    """Figures and tensors of a few steps on the GPU, as on one rank or with BatchNorm over all."""
    config = small(dtype="float64")
    accelerator = create_accelerator(config, read_launch(), "no")
    state = create_state(config, manifest().size, manifest().channels, accelerator.device)
    step = OnDevice(Step(state, *wrap(accelerator, state, sync_bn=True), config.loss), accelerator.device)
    figures, tensors = train(state, step, STEPS, torch.float64)  # type: ignore[arg-type]
    return figures, {group: {name: value.cpu() for name, value in part.items()} for group, part in tensors.items()}


class OnDevice:
    """A step that takes its batches from the host."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device

    def __call__(self, images: list[torch.Tensor], latents: list[torch.Tensor], *, report: bool) -> Any:
        return self._step([x.to(self._device) for x in images], [z.to(self._device) for z in latents], report=report)


def test_two_ranks_on_a_gpu_are_one_and_are_the_cpu() -> None:
    """To 1e-8 in losses and 1e-7 in weights, in float64: the kernels sum in other orders, and five steps amplify it."""
    alone = on_ranks(1, in_float64, gpu=True)[0]
    here = train(*create(small(dtype="float64")), STEPS, torch.float64)
    for figures, tensors in (*on_ranks(2, in_float64, gpu=True), here):
        torch.testing.assert_close(torch.tensor(figures), torch.tensor(alone[0]), rtol=0, atol=1e-8)
        for group, values in tensors.items():
            for name, value in values.items():
                torch.testing.assert_close(value, alone[1][group][name], rtol=0, atol=1e-7)


def mixed(precision: str) -> list[float]:
    """D's losses of three steps."""
    AcceleratorState._reset_state()
    config = small()
    accelerator = create_accelerator(config, read_launch(), precision)
    # Not the usual 65536, at which the first steps overflow and are skipped.
    scaler = torch.amp.GradScaler("cuda", init_scale=1024, enabled=precision == "fp16")
    state = replace(create_state(config, manifest().size, manifest().channels, accelerator.device), scaler=scaler)
    step = OnDevice(Step(state, *wrap(accelerator, state, sync_bn=True), config.loss), accelerator.device)
    parts = [([rows_of_rank(reals(n))], [rows_of_rank(noise(n))]) for n in range(3)]
    return [mean(step(*part, report=False)["loss/d"]) for part in parts]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.01), ("bf16", 0.03)])
def test_half_precision_is_float32_to_its_own(ranks: int, precision: str, tolerance: float) -> None:
    wanted = on_ranks(1, mixed, "no", gpu=True)[0]
    for losses in on_ranks(ranks, mixed, precision, gpu=True):
        assert losses == pytest.approx(wanted, rel=tolerance) and losses != wanted


def test_a_run_in_fp16_goes_on_on_the_cpu_and_back(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = [*SMALL, "--data.shards", str(faces32), "--out", str(out), "--steps"]
    half = ("--num_processes", "1", "--mixed_precision", "fp16")
    for steps, launcher, cpu in ((20, half, "false"), (30, ("--num_processes", "1"), "true"), (40, half, "false")):
        done = run(*flags, str(steps), launcher=launcher, env={"ACCELERATE_USE_CPU": cpu})
        assert done.returncode == 0, done.stderr
        assert status(out) == {"state": "done", "step": steps, "position": 8 * steps}
    figures = rows(out / "metrics.jsonl")
    assert [row["step"] for row in figures] == list(range(2, 41, 2))
    assert ["amp/scale" in row for row in figures] == [not 20 < row["step"] <= 30 for row in figures]
    facts = json.loads((out / "checkpoints" / "step-000000040" / "state.json").read_text())
    assert facts["scaler"]["scale"] > 0
