"""BatchNorm over the samples of all ranks, each of which has equally many.

``torch.nn.SyncBatchNorm`` raises on the CPU, and waits for the device in every layer on CUDA. This layer keeps the
parameters and buffers of plain BatchNorm, so a checkpoint works on any number of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.gan.kernels.over_ranks import Group, batch_norm_gradient
from trainer.gan.kernels.sync_batchnorm_cuda import CudaNormalise, statistics
from trainer.gan.losses import exact


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm of (n, channels, height, width) with the statistics of all ranks, each of which has n samples
    (Ioffe and Szegedy, arXiv 1502.03167).
    """

    group: Group = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        return self.on_cuda(images) if images.is_cuda else self.on_cpu(images)

    def on_cuda(self, images: torch.Tensor) -> torch.Tensor:
        """Train on CUDA, in the type of ``images``."""
        values, running = images.contiguous(memory_format=torch.channels_last), (self.running_mean, self.running_var)
        found = statistics(values, running, self.momentum or 0.0, self.eps, self.group)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
        out: torch.Tensor = CudaNormalise.apply(values, self.weight, self.bias, *found, self.eps, self.group)
        return out

    def on_cpu(self, images: torch.Tensor) -> torch.Tensor:
        """Train on the CPU, in float32 or float64."""
        values = exact(images)
        mean, variance = _statistics(values, self.group)
        self._track(mean, variance, dist.get_world_size(self.group) * values.numel() // values.shape[1])
        out: torch.Tensor = _Normalise.apply(values, self.weight, self.bias, mean, variance, self.eps, self.group)
        return out.to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)


@torch.no_grad()
def _statistics(values: torch.Tensor, group: Group) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of every channel over all ranks, in one all-gather.

    The ranks' variances are combined as in Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for
    computing sample variances", 1979), because E[x^2] - E[x]^2 loses precision in channels with little variance.
    """
    mine = torch.stack(torch.ops.aten.batch_norm_update_stats(values, None, None, 0.0))
    every = mine.new_empty(dist.get_world_size(group) * len(mine), mine.shape[1])
    dist.all_gather_into_tensor(every, mine, group)
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
        group: Group,
    ) -> torch.Tensor:
        ctx.save_for_backward(values, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps, ctx.group = eps, group
        return torch.native_batch_norm(values, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller differentiates again (``create_graph=True``)
            return *batch_norm_gradient(gradient, values, weight, ctx.eps, ctx.group), None, None, None, None
        # Gradients of weight and bias from this rank only, because DDP averages them.
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, values, weight, None, None, mean, scale, True, 0.0, [False, True, True]
        )
        if not ctx.needs_input_grad[0]:
            return None, to_weight, to_bias, None, None, None, None
        # The samples of every rank contribute to the mean and the variance.
        total = torch.stack([to_weight, to_bias])
        dist.all_reduce(total, group=ctx.group)
        ranks = dist.get_world_size(ctx.group)
        along, level = (total * (weight * scale * values.shape[1] / values.numel() / ranks)).unbind()
        slope, offset = along * -scale, along * scale * mean - level
        rest = torch.addcmul(offset[:, None, None], values, slope[:, None, None])
        return rest.addcmul_(gradient, (weight * scale)[:, None, None]), to_weight, to_bias, None, None, None, None


def synchronise(network: nn.Module, group: Group = None) -> None:
    """Replaces every BatchNorm in ``network`` by one over the ranks of ``group``, by default all, in place. Parameters
    and buffers stay.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            twin = SyncBatchNorm(child.num_features, child.eps, child.momentum, device="meta")
            twin.weight, twin.bias, twin.group = child.weight, child.bias, group
            for buffer, value in child.named_buffers():
                setattr(twin, buffer, value)
            setattr(network, name, twin)
        else:
            synchronise(child, group)
