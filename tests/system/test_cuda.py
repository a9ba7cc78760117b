"""What only a GPU can show: its queues, its BatchNorm over ranks, fp16, bf16, TF32, and a run that moves to the CPU and
back.

A machine with one GPU proves all of this but NCCL: its two ranks share the GPU and exchange over gloo. NCCL needs a GPU
for each rank. The tests of the queues run on the CPU too, where they prove that they ask for the right values; a long
kernel in the queue makes them fail on a GPU if a wait is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.nn import functional as F

from shards.loading.dataset import ShardDataset
from shards.loading.loader import Ring, batches
from tests.conftest import NO_GPU
from tests.support.launching import SMALL, rows, run, status
from tests.support.make import make_shards, numbers
from tests.support.ranks import on_ranks
from tests.trainer.gan.test_step import create, manifest, noise, reals, small
from tests.trainer.ranks.test_process_group import mean, train
from tests.trainer.ranks.test_process_group import rows as rows_of_rank
from trainer.folder import checkpoint
from trainer.folder.background import CheckpointWriter
from trainer.gan.state import create_state, find_non_finite
from trainer.gan.step import Step
from trainer.ranks.device import set_kernels
from trainer.ranks.launch import read_launch
from trainer.ranks.process_group import create_accelerator, wrap

needs_gpu = pytest.mark.gpu
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])

STEPS = 5
LONG = 1_000_000_000
"""Cycles of a kernel that does nothing: about half a second."""


def delay(stream: torch.cuda.Stream | None) -> None:
    """Keep ``stream`` busy, so that what is queued next waits; None, the only stream of the CPU, has no queue."""
    if stream is not None:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(LONG)


def current(device: str) -> torch.cuda.Stream | None:
    return torch.cuda.current_stream() if device == "cuda" else None


@pytest.fixture
def ring(device: str) -> Iterator[Ring]:
    """One slot, whose copies and clones have memory already: to allocate it could wait for the device."""
    with closing(Ring((1, 4, 32, 32, 3), "uint8", torch.device(device))) as ring:
        held = [ring.take(0), ring.take(0)]
        held += [image.clone() for image in held]
        ring.wait(0)
        if device == "cuda":
            torch.cuda.synchronize()
        del held
        yield ring


@on_each_device
def test_a_slot_is_filled_again_when_its_copy_is_done(ring: Ring) -> None:
    ring.array[:] = 1
    delay(ring._stream)
    images = ring.take(0)
    ring.wait(0)
    ring.array[:] = 2
    assert bool((images == 1).all())


@on_each_device
def test_a_batch_is_used_when_its_copy_is_done(ring: Ring) -> None:
    ring.array[:] = 3
    ring.take(0)
    ring.wait(0)  # its memory is used again, and holds other values until the copy
    ring.array[:] = 1
    delay(ring._stream)
    assert bool((ring.take(0).clone() == 1).all())


@on_each_device
def test_a_copy_that_began_early_is_taken_once(ring: Ring) -> None:
    ring.array[:] = 3
    ring.take(0)
    ring.wait(0)
    ring.array[:] = 1
    delay(ring._stream)
    ring.start(0)
    early = ring.take(0).clone()
    ring.wait(0)
    ring.array[:] = 2
    assert bool((early == 1).all()) and bool((ring.take(0).clone() == 2).all())


@on_each_device
def test_a_batchs_memory_is_used_again_when_the_step_is_done(ring: Ring, device: str) -> None:
    ring.array[:] = 1
    images, held = ring.take(0), ring.take(0)  # the memory of ``images`` is then the first that is free again
    ring.wait(0)
    delay(current(device))
    used = images.clone()
    del images
    ring.array[:] = 2
    other = ring.take(0)
    assert bool((used == 1).all()) and bool((held == 1).all()) and bool((other == 2).all())


@on_each_device
@pytest.mark.parametrize("workers", [0, 1])
def test_workers_overwrite_no_batch_that_is_being_copied(
    device: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(tmp_path)
    dataset, start = ShardDataset(tmp_path, lanes=8), Ring.start

    def start_late(ring: Ring, slot: int) -> None:
        delay(ring._stream)
        start(ring, slot)

    monkeypatch.setattr(Ring, "start", start_late)
    stream = batches(dataset, position=0, batch_size=8, workers=workers, device=torch.device(device))
    with closing(stream):
        found = [batch.images for batch in islice(stream, 3)]
        next(stream)
        trained = [numbers(images.cpu()) for images in found]
    assert trained == [numbers(dataset.__getitems__(range(first, first + 8)).images) for first in (0, 8, 16)]


@on_each_device
def test_a_checkpoint_is_written_when_it_is_copied(device: str, tmp_path: Path) -> None:
    """And holds its step, not a later one."""
    state = create_state(small(), manifest().size, manifest().channels, torch.device(device))
    writer, tensors = (
        CheckpointWriter(tmp_path, keep=2),
        [t for part in state.tensors().values() for t in part.values()],
    )
    for step in (1, 2):
        state.step = step
        for tensor in tensors:
            tensor.fill_(step)
        writer.wait()
        delay(current(device))
        writer.save(state, {}, lambda _: None)
        for tensor in tensors:
            tensor.zero_()
    writer.wait()
    writer.close()
    for step in (1, 2):
        saved, _ = checkpoint.load(tmp_path / f"step-{step:09d}")
        assert {float(value) for part in saved.values() for tensor in part.values() for value in tensor.unique()} == {
            step
        }


@on_each_device
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_value_that_is_not_finite_is_overlooked(device: str, value: float) -> None:
    weight = torch.randn(64, 32, 4, 4, device=device).to(memory_format=torch.channels_last)
    assert not find_non_finite({"d": {"weight": weight}})["d", "weight"]
    for place in (0, 1, 31_337, weight.numel() - 1):
        spoilt = weight.clone(memory_format=torch.preserve_format)
        spoilt.permute(0, 2, 3, 1).view(-1)[place] = value
        assert find_non_finite({"d": {"weight": spoilt}})["d", "weight"]


@needs_gpu
def test_tf32_rounds_products_and_convolutions_where_it_is_asked_for() -> None:
    """It keeps 10 bits of a float32's 23; seen as the root mean square error of sums of about 1,000 terms."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip(f"{NO_GPU} with TF32")
    drawn = torch.Generator("cuda").manual_seed(0)
    left, right, images, weight = (
        torch.randn(shape, device="cuda", generator=drawn)
        for shape in ((1024, 1024), (1024, 1024), (16, 128, 32, 32), (128, 128, 3, 3))
    )
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark
    try:
        for tf32 in (True, False, True):
            set_kernels(tf32=tf32)
            product = left @ right - (left.double() @ right.double())
            convolution = F.conv2d(images, weight) - F.conv2d(images.double(), weight.double())
            for error in (product, convolution):
                assert (float(error.square().mean().sqrt()) > 1e-3) == tf32
    finally:
        matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark = before


@pytest.mark.gpu(2)
def test_two_gpus_over_nccl_are_one(faces32: Path, tmp_path: Path) -> None:
    """Whole runs, which join the group, train, vote, compare and save. NCCL needs a GPU for each rank. Tolerances as
    below.
    """
    for name, launcher in (
        ("one", ("--num_processes", "1")),
        ("two", ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")),
    ):
        done = run(*SMALL, "--data.shards", str(faces32), "--out", str(tmp_path / name), "--steps", str(STEPS),
                   "--dtype", "float64", launcher=launcher)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("2 GPU ranks" in done.stderr) == (name == "two")
    one, two = (rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for figure in ("loss/d", "loss/g", "score/real", "gradient/d", "gradient/g"):
        assert [row[figure] for row in two] == pytest.approx([row[figure] for row in one], rel=0, abs=1e-8)
    weights = [checkpoint.load(tmp_path / name / "checkpoints" / f"step-{STEPS:09d}")[0] for name in ("one", "two")]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-7)


def in_float64() -> Any:
    """Figures and tensors of a few steps on the GPU, as on one rank or with BatchNorm over all."""
    config = small(dtype="float64")
    accelerator = create_accelerator(config, read_launch(), "no")
    state = create_state(config, manifest().size, manifest().channels, accelerator.device)
    step = OnDevice(Step(state, *wrap(accelerator, state, sync_bn=True), config), accelerator.device)
    figures, tensors = train(state, step, STEPS, torch.float64)  # type: ignore[arg-type]
    return figures, {group: {name: value.cpu() for name, value in part.items()} for group, part in tensors.items()}


class OnDevice:
    """A step that takes its batches from the host."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step, self._device = step, device

    def __call__(self, images: list[torch.Tensor], latents: list[torch.Tensor], *, report: bool) -> Any:
        return self._step([x.to(self._device) for x in images], [z.to(self._device) for z in latents], report=report)


@needs_gpu
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
    step = OnDevice(Step(state, *wrap(accelerator, state, sync_bn=True), config), accelerator.device)
    parts = [([rows_of_rank(reals(n))], [rows_of_rank(noise(n))]) for n in range(3)]
    return [mean(step(*part, report=False)["loss/d"]) for part in parts]


@needs_gpu
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.01), ("bf16", 0.03)])
def test_half_precision_is_float32_to_its_own(ranks: int, precision: str, tolerance: float) -> None:
    wanted = on_ranks(1, mixed, "no", gpu=True)[0]
    for losses in on_ranks(ranks, mixed, precision, gpu=True):
        assert losses == pytest.approx(wanted, rel=tolerance) and losses != wanted


@needs_gpu
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
