"""Gradient penalties, which keep the discriminator smooth around the images (Mescheder et al., arXiv 1801.04406).

R1 is the penalty at real images, R2 that at generated ones.
"""

from __future__ import annotations

import torch

from trainer.gan.losses import exact


def gradient_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Half the squared norm of the gradient of each logit (n,) for its image (n, channels, size, size), on average.

    ``logits`` are the discriminator's of ``images``, which require gradients. The norm is summed over pixels in at
    least float32. The result has derivatives, and ``logits`` must be in the loss too, or DDP would miss gradients
    (pytorch#63812). The gradient of the sum is that of each logit, unless layers mix the samples, as BatchNorm does.
    """
    (slopes,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return exact(slopes).square().flatten(1).sum(1).mean() / 2
