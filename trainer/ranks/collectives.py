"""Small collectives beside the training step: the stop vote, the comparison of states, the list of hosts and devices.

Without the comparison, a bug or a broken device that makes ranks differ would go unnoticed into the checkpoints, which
hold rank 0's weights only.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object

from trainer.gan.optimizer import Tensors

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes


class StopVote:
    """Makes all ranks stop after the same step when any of them has to.

    Each vote is an all-reduce of one byte over gloo on the CPU. It starts after one step and is read after the next, so
    that no rank waits for it and no device is synchronised.
    """

    def __init__(self, ranks: int) -> None:
        # Any: torch types a group as an int too, which stands for ranks outside of it.
        self._group: Any = dist.new_group(backend="gloo") if ranks > 1 else None
        self._vote = torch.zeros(1, dtype=torch.uint8)
        self._work: dist.Work | None = None

    def vote(self, stop: bool) -> bool:
        """Whether any rank voted ``stop`` in the previous call, equal on all ranks; with one rank, ``stop`` itself.

        Every rank must call it after every step.
        """
        if self._group is None:
            return stop
        result = False
        if self._work is not None:
            self._work.wait()
            result = bool(self._vote.item())
        self._vote.fill_(stop)
        self._work = dist.all_reduce(self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return result

    def close(self) -> None:
        """Wait for the pending vote. All ranks must have voted equally often."""
        if self._work is not None:
            self._work.wait()
            self._work = None


def check_equal(accelerator: Accelerator, tensors: Mapping[str, Tensors], step: int, position: int) -> None:
    """Compare fingerprints of ``tensors`` over all ranks, in one small gather.

    Raises:
        RuntimeError: ranks differ because of a bug or a broken device; the message names the groups.
    """
    if accelerator.num_processes == 1:
        return
    progress = torch.tensor([step, position], device=accelerator.device)
    own = torch.cat([progress, fingerprints(tensors)])
    gathered = accelerator.gather(own[None])
    unequal = (gathered != gathered[0]).any(dim=0).tolist()
    names = [name for name, differs in zip(["step", "position", *tensors], unequal, strict=True) if differs]
    if names:
        raise RuntimeError(f"The ranks drifted apart by step {step}, in {', '.join(names)}. No checkpoint was written.")


def fingerprints(tensors: Mapping[str, Tensors]) -> torch.Tensor:
    """Fingerprints of the groups in ``tensors``: int64 of shape (groups,), on the tensors' device.

    Each is the sum of a group's words, weighted with odd numbers that differ within a tensor, so that it changes when a
    word changes or two words swap.
    """
    return torch.stack([_fingerprint(group) for group in tensors.values()])


def _fingerprint(group: Tensors) -> torch.Tensor:
    words = [tensor.view(INTEGERS[tensor.element_size()]).flatten().long() for tensor in group.values()]
    sums = [(word * torch.arange(1, 2 * len(word), 2, device=word.device)).sum() for word in words]
    # Odd weights again: a factor of two would shift the sign of a float64 out of the sum.
    return torch.stack([total * (2 * number + 1) for number, total in enumerate(sums)]).sum()


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions, hosts and devices of the run for its board, equal on all ranks. Every rank must call it."""
    cuda = accelerator.device.type == "cuda"
    device = torch.cuda.get_device_name(accelerator.device) if cuda else platform.machine() + " CPU"
    gathered: list[tuple[str, str]] = gather_object([(platform.node(), device)])
    return {
        "ranks": accelerator.num_processes,
        "hosts": sorted({host for host, _ in gathered}),
        "devices": sorted({name for _, name in gathered}),
        "precision": accelerator.mixed_precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
    }
