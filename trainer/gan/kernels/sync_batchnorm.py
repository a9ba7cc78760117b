"""BatchNorm over the samples of all ranks, on the CPU.

``torch.nn.SyncBatchNorm`` raises on the CPU. Both versions keep the parameters and buffers of plain BatchNorm, so a
checkpoint works on any number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.gan.losses import exact


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm of (n, channels, height, width) with the statistics of all ranks, each of which has n samples
    (Ioffe and Szegedy, arXiv 1502.03167).
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        values = exact(images)
        mean, variance = _statistics(values)
        self._track(mean, variance, dist.get_world_size() * values.numel() // values.shape[1])
        out: torch.Tensor = _Normalise.apply(values, self.weight, self.bias, mean, variance, self.eps)
        return out.to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)


@torch.no_grad()
def _statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of every channel over all ranks, in one all-gather.

    The ranks' variances are combined as in Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), because E[x^2] - E[x]^2 loses precision in channels with little variance.
    """
    mine = torch.stack(torch.ops.aten.batch_norm_update_stats(values, None, None, 0.0))
    every = mine.new_empty(dist.get_world_size() * len(mine), mine.shape[1])
    dist.all_gather_into_tensor(every, mine)
    means, variances = every[::2], every[1::2]
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


class _Normalise(torch.autograd.Function):
    """``(values - mean) / sqrt(variance + eps) * weight + bias`` with ``mean`` and ``variance`` of all ranks.

    It has derivatives of every order, in which the samples of all ranks contribute to ``mean`` and ``variance``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(values, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        return torch.native_batch_norm(values, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller differentiates again (``create_graph=True``)
            return *_differentiable_backward(gradient, values, weight, ctx.eps), None, None, None
        # Gradients of weight and bias from this rank only, because DDP averages them.
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        if not ctx.needs_input_grad[0]:
            return None, to_weight, to_bias, None, None, None
        # The samples of every rank contribute to the mean and the variance.
        total = torch.stack([to_weight, to_bias])
        dist.all_reduce(total)
        along, level = (total * (weight * scale * values.shape[1] / values.numel() / dist.get_world_size())).unbind()
        slope, offset = along * -scale, along * scale * mean - level
        rest = torch.addcmul(offset[:, None, None], values, slope[:, None, None])
        return rest.addcmul_(gradient, (weight * scale)[:, None, None]), to_weight, to_bias, None, None, None


def _differentiable_backward(
    gradient: torch.Tensor, values: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of values, weight and bias, from operations that PyTorch differentiates.

    It takes three reductions over the ranks instead of one, because the statistics are functions of the values here.
    """
    pixels, count = (0, 2, 3), dist.get_world_size() * values.numel() // values.shape[1]
    centred = values - (_sum_over_ranks(values.sum(pixels)) / count)[:, None, None]
    scale = torch.rsqrt(_sum_over_ranks(centred.square().sum(pixels)) / count + eps)
    normal = centred * scale[:, None, None]
    to_weight, to_bias = (gradient * normal).sum(pixels), gradient.sum(pixels)
    along, level = (_sum_over_ranks(torch.stack([to_weight, to_bias])) / count)[..., None, None].unbind()
    return (gradient - normal * along - level) * (weight * scale)[:, None, None], to_weight, to_bias


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Its gradient is the sum of theirs, because each rank's result depends on all inputs."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _sum_over_ranks(gradient)


def _sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = _Sum.apply(values)
    return out


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Replaces every BatchNorm in ``network`` by one over all ranks, in place, keeping parameters and buffers."""
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            kind = nn.SyncBatchNorm if device.type == "cuda" else SyncBatchNorm
            twin = kind(child.num_features, child.eps, child.momentum, device=device, dtype=child.weight.dtype)
            twin.weight, twin.bias = child.weight, child.bias
            for buffer, value in child.named_buffers():
                setattr(twin, buffer, value)
            setattr(network, name, twin)
        else:
            synchronise(child, device)
