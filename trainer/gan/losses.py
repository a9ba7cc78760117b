"""Losses on logits, in at least float32 under autocast too.

``non-saturating`` and ``minimax`` are cross-entropy (Goodfellow et al., arXiv 1406.2661). ``relativistic`` is
cross-entropy too, of the difference between the logits of a real image and of the fake one of the same index
(Jolicoeur-Martineau, arXiv 1807.00734): the functions take the logits of :func:`relative` for it. ``hinge`` is that of
Lim and Ye (arXiv 1705.02894), ``least-squares`` that of Mao et al. (arXiv 1611.04076) with targets 1 and 0.
"""

from __future__ import annotations

import torch
from torch.nn.functional import relu, softplus

from trainer.config import Loss


def relative(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Logits (n,) that each image is more real than the one of the same index among the ``others``."""
    return exact(logits) - exact(others)


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Mean of a part for real and a part for fake logits (n,), such as -log sigmoid(real) and -log(1 - sigmoid(fake)).

    It is 0 if the discriminator is sure of all images.
    """
    real, fake = exact(real), exact(fake)
    if loss == "hinge":
        return (relu(1 - real).mean() + relu(1 + fake).mean()) / 2
    if loss == "least-squares":
        return ((1 - real).square().mean() + fake.square().mean()) / 2
    return (softplus(-real).mean() + softplus(fake).mean()) / 2


def generator_loss(fake: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Mean over logits (n,) of -log sigmoid(fake), of log(1 - sigmoid(fake)) for ``minimax``, of -fake for ``hinge``,
    of (1 - fake)^2 / 2 for ``least-squares``.
    """
    fake = exact(fake)
    if loss == "hinge":
        return -fake.mean()
    if loss == "least-squares":
        return (1 - fake).square().mean() / 2
    return -softplus(fake).mean() if loss == "minimax" else softplus(-fake).mean()


def score(logits: torch.Tensor, loss: Loss) -> torch.Tensor:
    """What the discriminator says of images with ``logits`` (n,), on average.

    It is the probability that an image is real, or, if ``relativistic``, more real than its counterpart. The logits of
    ``hinge`` and ``least-squares`` stand for no probability: the score is their mean.
    """
    logits = exact(logits.detach())
    return logits.mean() if loss in ("hinge", "least-squares") else logits.sigmoid().mean()


def exact(values: torch.Tensor) -> torch.Tensor:
    """Casts to float32, unless ``values`` are float64."""
    return values if values.dtype == torch.float64 else values.float()
