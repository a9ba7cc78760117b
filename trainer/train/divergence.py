"""Reads the metrics of a step, averaged over the ranks, and looks for NaN and infinity in them and in the state."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator

from trainer.errors import WentWrong
from trainer.gan.step import Metrics


def read_metrics(
    accelerator: Accelerator,
    metrics: Metrics,
    step: int,
    non_finite: Mapping[tuple[str, str], torch.Tensor] | None = None,
) -> dict[str, float]:
    """The ``metrics`` of ``step``, averaged over the ranks in one reduction.

    ``non_finite`` says of groups of tensors, each with the name of its first bad tensor, whether this rank's are bad.
    Raises ``WentWrong`` on all ranks if a loss, or a group of any rank, is not finite.
    """
    flags = non_finite or {}
    values = accelerator.reduce(torch.stack([*metrics.values(), *flags.values()]), "mean").tolist()
    row, found = dict(zip(metrics, values, strict=False)), values[len(metrics) :]
    # Only the losses: a gradient may overflow under fp16, and the scaler then skips that step.
    bad = {name: "" for name, value in row.items() if name.startswith("loss/") and not math.isfinite(value)}
    for (group, name), share in zip(flags, found, strict=True):
        if share:  # on at least one rank
            bad.setdefault(group, f" ({name})")
    if bad:
        raise WentWrong(
            f"{', '.join(map(''.join, bad.items()))} stopped being finite by step {step}: the training has diverged.",
            "No checkpoint was written of it; earlier ones, if there are any, are kept. Start anew with a lower "
            "learning rate and another --out.",
            since=step,
        )
    return row
