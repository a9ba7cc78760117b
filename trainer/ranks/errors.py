"""How a run fails, and who tells it."""

from __future__ import annotations

import torch.distributed as dist

from shards.common.errors import InputError


class SharedMistake(InputError):
    """One that all ranks raise alike, so that one tells it."""


LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""What gloo and NCCL say when a rank at the other end is gone; they have no type for it."""


def lost_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone, so that the cause is to be looked for there."""
    return isinstance(error, dist.DistError | RuntimeError) and any(word in str(error) for word in LOST)
