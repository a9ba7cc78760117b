"""Batches for one rank, from any position on, read and decoded ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing
from itertools import count, pairwise

import torch

from shards.common.errors import InputError
from shards.common.processes import WorkerDiedError, WorkerProcess
from shards.loading.dataset import Batch, ShardDataset
from shards.loading.reader import Reader, Report
from shards.loading.ring import Ring
from shards.loading.worker import SIGNALS

PREFETCH = 6
"""Batches in flight besides two: rides out a slow read without holding much (a batch of 128 at 64x64 is 1.5 MB)."""

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
        workers: processes that read and decode ahead; with 0, this process reads each batch when it is needed.
        device: a CUDA device receives its copies from page-locked memory while it computes.

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
        filler = _WorkerPool(dataset.reader, ring, workers) if workers else _InProcess(dataset.reader, ring)
        with closing(filler):
            requests: deque[tuple[int, int]] = deque()
            free = deque(range(slots))
            while True:
                while free:
                    slot = free.popleft()
                    ring.free(slot)
                    requests.append((slot, next(starts)))
                    filler.request(*requests[-1])
                slot, start = requests.popleft()
                report = filler.receive()
                yield Batch(start, ring.take(slot), report.keys, report.bad)
                free.append(slot)


def normalise(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (n, height, width, channels) to [-1, 1], (n, channels, height, width) in ``channels_last`` memory."""
    return images.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)


class _InProcess:
    """Reads in this process, when a batch is needed."""

    def __init__(self, reader: Reader, ring: Ring) -> None:
        self._reader, self._ring = reader, ring
        self._requests: deque[tuple[int, int]] = deque()

    def request(self, slot: int, position: int) -> None:
        """Have ``slot`` filled with the samples from ``position`` on."""
        self._requests.append((slot, position))

    def receive(self) -> Report:
        """Wait until the oldest request is done; raises what :func:`batches` documents."""
        slot, position = self._requests.popleft()
        return self._reader.read(position, self._ring.array[slot])

    def close(self) -> None:
        pass


class _WorkerPool:
    """Like :class:`_InProcess`, but reads ahead in ``workers`` processes of :mod:`shards.loading.worker`.

    Each fills its own rows of every slot, rather than every n-th slot: they are its own lanes, so that only one worker
    opens or fetches each block of the data.
    """

    def __init__(self, reader: Reader, ring: Ring, workers: int) -> None:
        rows = ring.shape[1]
        bounds = [rows * number // workers for number in range(workers + 1)]
        self._parts = [(first, last) for first, last in pairwise(bounds) if last > first]
        self._pool: list[WorkerProcess] = []
        try:
            for _ in self._parts:
                self._pool.append(WorkerProcess("shards.loading.worker", [ring.fileno()], blocked=SIGNALS))
            for worker in self._pool:  # all start at once: a large message waits until its worker receives it
                worker.send((reader, ring.shape))
        except BaseException:
            self.close()
            raise

    def request(self, slot: int, position: int) -> None:
        for worker, (first, last) in zip(self._pool, self._parts, strict=True):
            worker.send((slot, first, last, position + first))

    def receive(self) -> Report:
        try:
            responses: list[Report | InputError] = [worker.receive() for worker in self._pool]
        except WorkerDiedError as error:
            memory = ": out of memory?" if error.killed_by else "."
            raise RuntimeError(f"A loader's worker {error}{memory}") from None
        for response in responses:
            if isinstance(response, InputError):
                raise response
        reports = [response for response in responses if isinstance(response, Report)]
        return Report(
            tuple(key for report in reports for key in report.keys),
            tuple(bad for report in reports for bad in report.bad),
        )

    def close(self) -> None:
        for worker in self._pool:
            worker.kill()
        for worker in self._pool:
            worker.finish()
