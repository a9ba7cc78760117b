"""Losses on logits (Goodfellow et al., arXiv 1406.2661), in at least float32 under autocast too."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from trainer.config import Loss


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of real and fake logits (n,): mean of -(log sigmoid(real) + log(1 - sigmoid(fake))) / 2."""
    return (softplus(-exact(real)).mean() + softplus(exact(fake)).mean()) / 2


def generator_loss(fake: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Mean over logits (n,) of -log sigmoid(fake) for ``non-saturating``, log(1 - sigmoid(fake)) for ``minimax``."""
    return softplus(-exact(fake)).mean() if loss == "non-saturating" else -softplus(exact(fake)).mean()


def exact(values: torch.Tensor) -> torch.Tensor:
    """Casts to float32, unless ``values`` are float64."""
    return values if values.dtype == torch.float64 else values.float()
