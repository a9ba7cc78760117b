"""BatchNorm over the samples of all ranks, as one large device would compute it.

PyTorch's own does this on CUDA only and raises on a CPU inside a process group; :class:`SyncBatchNorm` is for there.
Both keep the parameters and buffers of plain BatchNorm, so that a checkpoint moves between any numbers of ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.losses import exact


class SyncBatchNorm(nn.BatchNorm2d):
    """In training, normalises (n, channels, height, width) by the mean and variance over all ranks' rows, n on each.

    Two all-reduces of a value a channel forward and as many backward (Ioffe and Szegedy, arXiv 1502.03167, over a
    larger batch). E[x^2] - E[x]^2 would need one only, but in float32 it turns negative where a channel hardly varies.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        values = exact(images)
        count = dist.get_world_size() * images.numel() // images.shape[1]
        mean = _over_ranks(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _over_ranks(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum or 0.0)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum or 0.0)


class _Sum(torch.autograd.Function):
    """Every rank's loss depends on the sum, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.forward(ctx, gradient)


def _over_ranks(values: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(values)
    return total


def synchronise(network: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm in ``network``, in place, by one over all ranks; parameters and buffers stay the same
    tensors.
    """
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
