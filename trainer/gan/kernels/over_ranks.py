"""Sums over ranks that PyTorch can differentiate, and the gradient of BatchNorm made of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

Group = Any  # a process group, or None for the default one; torch types a group as an int too


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Its gradient is the sum of theirs, because each rank's result depends on all inputs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: Group) -> torch.Tensor:
        ctx.group = group
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return sum_over_ranks(gradient, ctx.group), None


def sum_over_ranks(values: torch.Tensor, group: Group) -> torch.Tensor:
    """The sum of ``values`` over the ranks of ``group``, with derivatives of every order."""
    out: torch.Tensor = _Sum.apply(values, group)
    return out


def batch_norm_gradient(
    gradient: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, eps: float, group: Group
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of values (n, channels, height, width), weight and bias, from operations that PyTorch
    differentiates.

    It takes three reductions over the ranks instead of one, because the statistics are functions of the values here.
    """
    pixels, count = (0, 2, 3), dist.get_world_size(group) * values.numel() // values.shape[1]
    centred = values - (sum_over_ranks(values.sum(pixels), group) / count)[:, None, None]
    scale = torch.rsqrt(sum_over_ranks(centred.square().sum(pixels), group) / count + eps)
    normal = centred * scale[:, None, None]
    to_weight, to_bias = (gradient * normal).sum(pixels), gradient.sum(pixels)
    totals = sum_over_ranks(torch.stack([to_weight, to_bias]), group) / count
    along, level = totals[..., None, None].unbind()
    return (gradient - normal * along - level) * (weight * scale)[:, None, None], to_weight, to_bias
