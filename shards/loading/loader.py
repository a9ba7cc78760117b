"""Batches for one rank, from any position on, read and decoded ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing
from itertools import count

import torch

from shards.common.errors import InputError
from shards.loading.dataset import Batch, ShardDataset
from shards.loading.ring import Ring
from shards.loading.worker_pool import Alone, Feeders, Team

PREFETCH = 6
"""Batches in flight beside two: rides out a slow read without holding much (a batch of 128 at 64x64 is 1.5 MB)."""

CPU = torch.device("cpu")


def batches(
    dataset: ShardDataset,
    *,
    position: int,
    batch_size: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    device: torch.device = CPU,
) -> Generator[Batch]:
    """This rank's part of every global batch from ``position`` on; endless. The images are on ``device``.

    Args:
        dataset: what to read.
        position: of the first sample of the first global batch.
        batch_size: G, of the global batch; a multiple of ``ranks``.
        rank: which rows: ``[rank * G / ranks, (rank + 1) * G / ranks)``.
        ranks: number of ranks.
        workers: processes that read and decode ahead; 0 does it in this one, at the time of asking.
        device: on CUDA the copies to it run beside its arithmetic, from page-locked memory.

    Raises:
        ValueError: ``batch_size`` is not a positive multiple of ``ranks``, or ``workers`` is negative.
        InputError: from the iterator, in the order of positions: a sample cannot be read.
        RuntimeError: a worker was killed.
    """
    if batch_size < 1 or batch_size % ranks:
        raise ValueError(f"a batch of {batch_size} does not divide among {ranks} ranks")
    if workers < 0:
        raise ValueError(f"{workers} workers")
    rows = batch_size // ranks
    starts = count(position + rank * rows, batch_size)
    slots = 2 + PREFETCH * bool(workers)
    with closing(Ring(slots, (rows, *dataset.manifest.shape), device)) as ring:
        team: Team = Feeders(dataset.reader, ring, workers) if workers else Alone(dataset.reader, ring)
        with closing(team):
            orders: deque[tuple[int, int]] = deque()
            free = deque(range(slots))
            while True:
                while free:
                    slot = free.popleft()
                    ring.free(slot)
                    orders.append((slot, next(starts)))
                    team.ask(*orders[-1])
                slot, start = orders.popleft()
                answer = team.answer()
                if isinstance(answer, InputError):
                    raise answer
                yield Batch(start, ring.take(slot), answer.keys, answer.bad)
                free.append(slot)


def normalise(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (n, height, width, channels) to [-1, 1], (n, channels, height, width) in ``channels_last`` memory."""
    return images.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)
