"""Batches for one rank, from any position on, decoded ahead of their use."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from shards.dataset import Batch, ShardDataset
from shards.errors import InputError

PREFETCH = 4
"""Batches in flight per worker: rides out a slow read without holding much (a batch of 128 at 64x64 is 1.5 MB)."""


class _Positions:
    """This rank's rows of every global batch from ``position`` on, without end."""

    def __init__(self, position: int, batch_size: int, rank: int, ranks: int) -> None:
        self._position, self._batch_size = position, batch_size
        self._rows = range(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)

    def __iter__(self) -> Iterator[range]:
        position = self._position
        while True:
            yield range(position + self._rows.start, position + self._rows.stop)
            position += self._batch_size


class _Fetch(Dataset[Batch | InputError]):
    """Hands an ``InputError`` over as a value: raised in a worker, it would arrive wrapped in a traceback's text."""

    def __init__(self, dataset: ShardDataset) -> None:
        self._dataset = dataset

    def __getitems__(self, positions: Sequence[int]) -> Batch | InputError:
        try:
            return self._dataset.__getitems__(positions)
        except InputError as error:
            return error


def batches(
    dataset: ShardDataset,
    *,
    position: int,
    batch_size: int,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Generator[Batch]:
    """This rank's part of every global batch from ``position`` on; endless.

    Args:
        dataset: what to read.
        position: of the first sample of the first global batch.
        batch_size: G, of the global batch; a multiple of ``ranks``.
        rank: which rows: ``[rank * G / ranks, (rank + 1) * G / ranks)``.
        ranks: number of ranks.
        workers: processes that read and decode ahead; 0 does it in this one, at the time of asking.
        pin_memory: page-locked batches, which the device can copy from while it computes.

    Raises:
        ValueError: ``batch_size`` is not a positive multiple of ``ranks``.
        InputError: from the iterator, in the order of positions: a sample cannot be read.
    """
    if batch_size < 1 or batch_size % ranks:
        raise ValueError(f"a batch of {batch_size} does not divide among {ranks} ranks")
    loader: DataLoader[Batch | InputError] = DataLoader(
        _Fetch(dataset),
        batch_sampler=_Positions(position, batch_size, rank, ranks),  # type: ignore[arg-type]  # endless: no len
        collate_fn=_as_is,  # type: ignore[arg-type]  # __getitems__ made the batch already
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # iter() draws from it; the global one would shift every later random number
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def normalise(images: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (n, height, width, channels) to [-1, 1], (n, channels, height, width) in ``channels_last`` memory.

    The copy to ``device`` moves one byte a value and does not block when ``images`` are page-locked.
    """
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)


def _as_is(batch: Batch | InputError) -> Batch | InputError:
    return batch


def _ignore_signals(_: int) -> None:
    """A cluster signals every process of a job; the rank decides when to leave and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
