"""BatchNorm over the samples of all ranks, on CUDA: the kernels of ``torch.nn.SyncBatchNorm``, without its waits.

That class lets ranks have different numbers of samples, or none. It exchanges the numbers, selects the ranks that have
any, and so waits for the device in every layer. Here all ranks have equally many.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist

from trainer.gan.kernels.over_ranks import Group, batch_norm_gradient
from trainer.gan.losses import exact


@torch.no_grad()
def statistics(
    values: torch.Tensor,
    running: tuple[torch.Tensor | None, torch.Tensor | None],
    momentum: float,
    eps: float,
    group: Group,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / sqrt(variance + eps) of every channel over all ranks, in one all-gather.

    ``values`` are (n, channels, height, width); both results are float32, or float64 for float64. Updates ``running``,
    mean and variance of the same type.
    """
    mine = torch.stack(torch.batch_norm_stats(values, eps))
    ranks = dist.get_world_size(group)
    every = mine.new_empty(ranks * len(mine), mine.shape[1])
    dist.all_gather_into_tensor(every, mine, group)
    counts = _counts(values.numel() // values.shape[1], ranks, mine.dtype, values.device)
    mean, scale = torch.batch_norm_gather_stats_with_counts(
        values, every[::2], every[1::2], *running, momentum, eps, counts
    )
    return mean, scale


class CudaNormalise(torch.autograd.Function):
    """``(values - mean) * scale * weight + bias`` with ``mean`` and ``scale`` of :func:`statistics`, in the type of the
    values, which may be bf16 or fp16.

    It has derivatives of every order, in which the samples of all ranks contribute to ``mean`` and ``scale``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        eps: float,
        group: Group,
    ) -> torch.Tensor:
        ctx.save_for_backward(values, weight, mean, scale)
        ctx.eps, ctx.group = eps, group
        return torch.batch_norm_elemt(values, weight, bias, mean, scale, eps)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller differentiates again (``create_graph=True``)
            found = batch_norm_gradient(exact(gradient), exact(values), weight, ctx.eps, ctx.group)
            return found[0].to(values.dtype), *found[1:], None, None, None, None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        # Gradients of weight and bias from this rank only, because DDP averages them.
        level, along, to_weight, to_bias = torch.batch_norm_backward_reduce(
            gradient, values, mean, scale, weight, *ctx.needs_input_grad[:3]
        )
        if not ctx.needs_input_grad[0]:
            return None, to_weight, to_bias, None, None, None, None
        total = torch.stack([level, along])  # the samples of every rank contribute to the mean and the scale
        dist.all_reduce(total, group=ctx.group)
        ranks = dist.get_world_size(ctx.group)
        counts = _counts(values.numel() // values.shape[1], ranks, torch.int32, values.device)
        out = torch.batch_norm_backward_elemt(gradient, values, mean, scale, weight, total[0], total[1], counts)
        return out, to_weight, to_bias, None, None, None, None


@lru_cache(64)
def _counts(count: int, ranks: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.full((ranks,), count, dtype=dtype, device=device)
