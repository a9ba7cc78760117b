"""Whether all ranks hold the same run: a checkpoint is of one of them and must be that of all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator

from trainer.gan.optimizer import Tensors

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprints(tensors: Mapping[str, Tensors]) -> torch.Tensor:
    """One int64 a group, on the tensors' device: the sum of their words, each times an odd number of its own, so that
    neither a word that drifts nor two that change places leave it as it was.
    """
    return torch.stack([_sum_of_bits(group) for group in tensors.values()])


def _sum_of_bits(group: Tensors) -> torch.Tensor:
    words = [tensor.view(BITS[tensor.element_size()]) for tensor in group.values()]
    sums = [
        (word.long() * torch.arange(1, 2 * word.numel(), 2, device=word.device).view_as(word)).sum() for word in words
    ]
    # Odd again: a factor of two would shift the sign of a float64 out of the sum.
    return torch.stack([total * (2 * number + 1) for number, total in enumerate(sums)]).sum()


def check_equal(accelerator: Accelerator, tensors: Mapping[str, Tensors], step: int, position: int) -> None:
    """One small gather.

    Raises:
        RuntimeError: the ranks differ, in the groups named; a bug or a broken device, and no checkpoint is worth it.
    """
    if accelerator.num_processes == 1:
        return
    clock = torch.tensor([step, position], device=accelerator.device)
    mine = torch.cat([clock, fingerprints(tensors)])
    everyones = accelerator.gather(mine[None])
    unequal = (everyones != everyones[0]).any(dim=0).tolist()
    names = [name for name, differs in zip(["step", "position", *tensors], unequal, strict=True) if differs]
    if names:
        raise RuntimeError(f"The ranks drifted apart by step {step}, in {', '.join(names)}. No checkpoint was written.")
