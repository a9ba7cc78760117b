"""Ranks compute what one device would: the whole trainer, on two CPU ranks, against one."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from shards.loading.dataset import ShardDataset
from tests.support.launching import SMALL, rows, run
from tests.support.ranks import on_ranks, train_here
from trainer.gan.kernels.sync_batchnorm import SyncBatchNorm, synchronise


def flags(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--steps", "20", "--data.workers", "0",
            "--dtype", "float64", "--data.audit", str(out / "audit"), *SMALL, *more]  # fmt: skip


def test_a_mistake_that_one_rank_finds_is_told_with_its_number(faces32: Path, tmp_path: Path) -> None:
    """The first sample of rank 1's first rows is not what was indexed."""
    shards = Path(shutil.copytree(faces32, tmp_path / "shards"))
    shard, row = (int(n[0]) for n in ShardDataset(shards, lanes=8).order.lookup(np.array([4])))
    dataset = ShardDataset(shards, lanes=8)
    offset = int(np.load(shards / "index.npy")["offset"][dataset.manifest.counts[:shard].sum() + row])
    with (shards / dataset.manifest.shards[shard].name).open("rb+") as file:
        file.seek(offset)
        file.write(b"???")
    (code, _), (other, said) = on_ranks(2, train_here, flags(shards, tmp_path / "run"))
    assert code != 0 and other != 0
    assert f"error (rank 1 on {platform.node()}): The sample" in said


class Plumbing(SyncBatchNorm):
    """What the layer does on CUDA, on the CPU, around :data:`KERNELS`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.on_cuda(images)


def batch_norm_stats(images: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    variance, mean = torch.var_mean(images, (0, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    _: torch.Tensor, means: torch.Tensor, scales: torch.Tensor, running_mean: torch.Tensor, running_var: torch.Tensor,
    momentum: float, eps: float, counts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    shares, count = (counts / counts.sum())[:, None], counts.sum()
    mean = (shares * means).sum(0)
    variance = (shares * (scales**-2 - eps + (means - mean) ** 2)).sum(0)
    running_mean.mul_(1 - momentum).add_(momentum * mean)
    running_var.mul_(1 - momentum).add_(momentum * variance * count / (count - 1))
    return mean, (variance + eps).rsqrt()


def batch_norm_elemt(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, _: float
) -> torch.Tensor:
    weight, bias, mean, scale = (values[:, None, None] for values in (weight, bias, mean, scale))
    return (images - mean) * scale * weight + bias


def batch_norm_backward_reduce(
    gradient: torch.Tensor, images: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, _: torch.Tensor,
    *needed: bool,
) -> tuple[torch.Tensor | None, ...]:  # fmt: skip
    along, level = (gradient * (images - mean[:, None, None])).sum((0, 2, 3)), gradient.sum((0, 2, 3))
    sums, to_weight, to_bias = (level, along) if needed[0] else (None, None), along * scale, level.clone()
    return *sums, to_weight if needed[1] else None, to_bias if needed[2] else None


def batch_norm_backward_elemt(
    gradient: torch.Tensor, images: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor,
    level: torch.Tensor, along: torch.Tensor, counts: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    assert counts.dtype == torch.int32
    along, level = along / counts.sum() * scale**2, level / counts.sum()
    mean, scale, weight, level, along = (values[:, None, None] for values in (mean, scale, weight, level, along))
    return (gradient - level - (images - mean) * along) * scale * weight


KERNELS = (batch_norm_stats, batch_norm_gather_stats_with_counts, batch_norm_elemt, batch_norm_backward_reduce,
           batch_norm_backward_elemt)  # fmt: skip
"""What PyTorch's kernels for CUDA of these names compute, as its sources (``Normalization.cuh``) say."""


def layer(kind: str, offset: float, device: str = "cpu", *, plumbing: bool = False) -> list[torch.Tensor]:
    """A layer's output, its gradients and its statistics, from this rank's half of a batch."""
    dtype = torch.float64 if kind == "float64" else torch.float32
    drawn = torch.Generator().manual_seed(0)
    whole = torch.randn(8, 5, 3, 3, generator=drawn, dtype=torch.float64) + offset
    grad_output = torch.randn(8, 5, 3, 3, generator=drawn, dtype=torch.float64)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    rows = slice(None)
    norm = nn.BatchNorm2d(5)
    norm.weight.data = torch.rand(5, generator=drawn, dtype=torch.float64)
    network = nn.Sequential(norm).to(device, dtype)
    if dist.is_initialized():
        rows = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        synchronise(network, dist.new_group())
        if plumbing:
            network[0].__class__ = Plumbing
    images = whole[rows].to(device, dtype).to(memory_format=torch.channels_last).requires_grad_()
    out = network(images)
    (out * grad_output[rows].to(device, dtype)).sum().backward()
    assert images.grad is not None
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    if dist.is_initialized():
        for gradient in gradients:
            dist.all_reduce(gradient)
    return [values.cpu() for values in (out.detach(), images.grad, *gradients, *network.buffers())]


CASES = {"float64": (3.0, 1e-12), "float32": (1e3, 2e-3)}
"""An offset from 0, and the tolerance. Far from 0, E[x^2] - E[x]^2 would have nothing left in float32."""


def layers(device: str = "cpu") -> dict[str, list[torch.Tensor]]:
    return {kind: layer(kind, offset, device) for kind, (offset, _) in CASES.items()}


def plumbing() -> dict[str, list[torch.Tensor]]:
    with ExitStack() as patches:
        for kernel in KERNELS:
            patches.enter_context(patch.object(torch, kernel.__name__, kernel))
        return {"float64": layer("float64", CASES["float64"][0], plumbing=True)}


def assert_whole(halves: list[dict[str, list[torch.Tensor]]]) -> None:
    for kind in halves[0]:
        offset, tolerance = CASES[kind]
        for place, value in enumerate(layer("float64", offset)):
            parts = [half[kind][place] for half in halves]
            found = torch.cat(parts) if place < 2 else parts[0]
            torch.testing.assert_close(found.to(value.dtype), value, rtol=tolerance, atol=tolerance)


def test_two_halves_are_normalised_as_the_whole() -> None:
    assert_whole(on_ranks(2, layers))


def test_the_layer_asks_the_kernels_of_cuda_for_the_right_values() -> None:
    assert_whole(on_ranks(2, plumbing))


@pytest.mark.gpu
def test_two_halves_on_a_gpu_are_normalised_as_the_whole() -> None:
    assert_whole(on_ranks(2, layers, "cuda", gpu=True))


def derivatives(device: str) -> bool:
    """The derivatives of the layer on ``device``, on one rank, are those that differences show: of all inputs, of fixed
    images, as in the first layer of a frozen stack, and of fixed weights, as in D while G steps.
    """
    dist.init_process_group("gloo")
    network = nn.Sequential(nn.BatchNorm2d(3)).to(device, torch.float64)
    synchronise(network)
    if device == "cpu":
        network[0].__class__ = Plumbing
    drawn = torch.Generator().manual_seed(0)
    values = [torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=drawn) + 3]
    values += [torch.randn(3, dtype=torch.float64, generator=drawn) for _ in range(2)]

    def normalise(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, {"0.weight": weight, "0.bias": bias}, (images,))

    with ExitStack() as patches:
        for kernel in KERNELS if device == "cpu" else ():
            patches.enter_context(patch.object(torch, kernel.__name__, kernel))
        for fixed in ((), (0,), (1, 2)):
            inputs = [value.to(device).requires_grad_(place not in fixed) for place, value in enumerate(values)]
            assert gradcheck(normalise, inputs, nondet_tol=1e-10) and gradgradcheck(normalise, inputs, nondet_tol=1e-10)
    return True


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_layer_of_cuda_has_derivatives(device: str) -> None:
    assert on_ranks(1, derivatives, device, gpu=device == "cuda") == [True]


def without_waiting() -> list[list[torch.Tensor]]:
    """A layer in bf16 and in float32, on one rank over NCCL: its output and the gradient of its input. Any wait for the
    device is an error.
    """
    dist.init_process_group("nccl")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        network = nn.Sequential(nn.BatchNorm2d(64)).cuda()
        synchronise(network, dist.new_group())
        images = torch.randn(16, 64, 8, 8, generator=torch.Generator().manual_seed(0)).to("cuda", dtype)
        for turn in range(2):  # in the first, the group connects and the counts are made
            inputs = images.clone(memory_format=torch.channels_last).requires_grad_()
            torch.cuda.set_sync_debug_mode("error" if turn else "default")
            out = network(inputs)
            (gradient,) = torch.autograd.grad(out.square().sum() + out[:, :, 0].sum(), inputs)
            torch.cuda.set_sync_debug_mode("default")
        assert out.dtype == gradient.dtype == dtype
        found.append([out.detach().float().cpu(), gradient.float().cpu()])
    return found


@pytest.mark.gpu
def test_the_layer_does_not_wait_for_a_gpu_and_takes_bf16() -> None:
    [(exact, rounded)] = on_ranks(1, without_waiting, gpu=True)
    for value, other in zip(exact, rounded, strict=True):
        torch.testing.assert_close(other, value, rtol=0.02, atol=0.1)


def newest(out: Path, name: str) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = load_file(out / "checkpoints" / "step-000000020" / f"{name}.safetensors")
    return tensors


def test_two_ranks_agree_with_one(faces32: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert run(*flags(faces32, one)).returncode == 0
    (code, said), (other, _) = on_ranks(2, train_here, flags(faces32, two))
    assert code == other == 0, said
    assert "2 CPU ranks" in said
    for a, b in zip(rows(one / "metrics.jsonl"), rows(two / "metrics.jsonl"), strict=True):
        for name in ("loss/d", "loss/g", "score/real", "gradient/d", "gradient/g"):
            assert a[name] == pytest.approx(b[name], abs=1e-10)
    for name in ("generator", "discriminator", "average", "generator_optim", "discriminator_optim"):
        for key, value in newest(one, name).items():
            torch.testing.assert_close(newest(two, name)[key], value, rtol=0, atol=1e-9)
    halves = [rows(two / "audit" / f"rank-{rank}.jsonl") for rank in (0, 1)]
    whole = [row["keys"] for row in rows(one / "audit" / "rank-0.jsonl")]
    assert [left["keys"] + right["keys"] for left, right in zip(*halves, strict=True)] == whole
