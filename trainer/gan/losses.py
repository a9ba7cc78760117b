"""Logits to a scalar (Goodfellow et al., arXiv 1406.2661).

Always in at least float32, whatever autocast does around.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from trainer.config import Loss


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """-(log sigmoid(real) + log(1 - sigmoid(fake))) / 2, averaged over logits (n,): binary cross-entropy on both."""
    return (softplus(-exact(real)).mean() + softplus(exact(fake)).mean()) / 2


def generator_loss(fake: torch.Tensor, loss: Loss) -> torch.Tensor:
    """``non-saturating``: -log sigmoid(fake). ``minimax``: log(1 - sigmoid(fake)). Averaged over logits (n,)."""
    return softplus(-exact(fake)).mean() if loss == "non-saturating" else -softplus(exact(fake)).mean()


def exact(values: torch.Tensor) -> torch.Tensor:
    """float64 as it is, anything else as float32."""
    return values if values.dtype == torch.float64 else values.float()
