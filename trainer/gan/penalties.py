"""Gradient penalties, which keep the discriminator smooth around the images (Mescheder et al., arXiv 1801.04406).

R1 is the penalty at real images, R2 that at generated ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.gan.losses import exact


def gradient_penalties(batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Half the squared norm of the gradient of each logit for its image, on average over each of the ``batches``.

    A batch is the discriminator's logits (n,) and their images (n, channels, size, size), which require gradients. The
    norm is summed over pixels in at least float32. The results have derivatives, and the logits must be in the loss
    too, or DDP would miss gradients (pytorch#63812). The gradient of the sum of all logits is that of each, unless
    layers mix the samples, as BatchNorm does.
    """
    if not batches:
        return []
    logits, images = zip(*batches, strict=True)
    gradients = torch.autograd.grad([values.sum() for values in logits], images, create_graph=True)
    return [exact(gradient).square().flatten(1).sum(1).mean() / 2 for gradient in gradients]
