"""Leaving together: any rank may ask, all leave after the same step, and nobody waits for a device."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class Accord:
    """One bit over all ranks, or-ed, told a step late.

    A byte on the CPU over gloo beside the training: sent off after one step and read after the next, when it has long
    come back. It keeps the ranks' hosts within a step of each other; their devices are not asked.
    """

    def __init__(self, ranks: int) -> None:
        # Typed wide: torch says that a group may be a number, which stands for ranks outside it.
        self._group: Any = dist.new_group(backend="gloo") if ranks > 1 else None
        self._bit = torch.zeros(1, dtype=torch.uint8)
        self._work: dist.Work | None = None

    def ask(self, mine: bool) -> bool:
        """Whether any rank asked at its previous call, equal on all ranks; on one rank, whether it asks now.

        To be called by every rank after every step.
        """
        if self._group is None:
            return mine
        asked = False
        if self._work is not None:
            self._work.wait()
            asked = bool(self._bit.item())
        self._bit.fill_(mine)
        self._work = dist.all_reduce(self._bit, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return asked

    def close(self) -> None:
        """Wait for what is under way; all ranks do, having asked as often."""
        if self._work is not None:
            self._work.wait()
            self._work = None
