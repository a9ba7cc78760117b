"""Ranks compute what one device would: the whole trainer, on two CPU ranks, against one."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from shards.loading.dataset import ShardDataset
from tests.support.launching import SMALL, rows, run
from tests.support.ranks import on_ranks, train_here
from trainer.gan.kernels.sync_batchnorm import synchronise


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


def layer(kind: str, offset: float) -> list[torch.Tensor]:
    """A layer's output, its gradients and its statistics, from this rank's half of a batch."""
    dtype = torch.float64 if kind == "float64" else torch.float32
    drawn = torch.Generator().manual_seed(0)
    whole = torch.randn(8, 5, 3, 3, generator=drawn, dtype=torch.float64) + offset
    towards = torch.randn(8, 5, 3, 3, generator=drawn, dtype=torch.float64)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")
    rows = slice(None)
    norm = nn.BatchNorm2d(5)
    norm.weight.data = torch.rand(5, generator=drawn, dtype=torch.float64)
    network = nn.Sequential(norm).to(dtype)
    if dist.is_initialized():
        rows = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        synchronise(network, torch.device("cpu"))
    images = whole[rows].to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    out = network(images)
    (out * towards[rows].to(dtype)).sum().backward()
    assert images.grad is not None
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    if dist.is_initialized():
        for gradient in gradients:
            dist.all_reduce(gradient)
    return [out.detach(), images.grad, *gradients, *network.buffers()]


CASES = {"float64": (3.0, 1e-12), "float32": (1e3, 2e-3)}
"""An offset from 0, and the tolerance. Far from 0, E[x^2] - E[x]^2 would have nothing left in float32."""


def layers() -> dict[str, list[torch.Tensor]]:
    return {kind: layer(kind, offset) for kind, (offset, _) in CASES.items()}


def test_two_halves_are_normalised_as_the_whole() -> None:
    halves = on_ranks(2, layers)
    for kind, (offset, tolerance) in CASES.items():
        for place, value in enumerate(layer("float64", offset)):
            parts = [half[kind][place] for half in halves]
            found = torch.cat(parts) if place < 2 else parts[0]
            torch.testing.assert_close(found.to(value.dtype), value, rtol=tolerance, atol=tolerance)


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
