"""Batches for one rank, from any position on: worker processes decode into shared memory, the device copies from it."""

from __future__ import annotations

import os
import select
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import count, pairwise
from typing import IO, Any

import numpy as np
import torch

from shards.common.errors import InputError
from shards.common.processes import WorkerDiedError, WorkerProcess
from shards.loading.dataset import Batch, ShardDataset, make_batch
from shards.loading.reader import Reader, Report
from shards.loading.worker import SIGNALS, Companion, fill, map_ring

PREFETCH = 6  # batches in flight besides one and all of the next: rides out a slow read, 1.5 MB per 128 at 64x64
SLOTS = 128  # at most, since all are requested before the first is received: a socket holds about 270 requests
POLL = 500  # milliseconds between two looks at whether to go on waiting
CPU = torch.device("cpu")


def batches(
    dataset: ShardDataset,
    *,
    position: int,
    batch_size: int,
    parts: int = 1,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    device: torch.device = CPU,
    companion: Companion | None = None,
    waiting: Callable[[], object] = lambda: None,
    started: Callable[[Sequence[int]], object] = lambda _: None,
) -> Generator[Batch]:
    """This rank's part of every global batch from ``position`` on; endless. The images, and the numbers of the
    ``companion``, are on ``device``.

    Of G = ``batch_size`` samples, ``rank`` gets the rows ``[rank * G / ranks, (rank + 1) * G / ranks)``. In ``parts``,
    each global batch comes as so many smaller ones, one after another, which the ranks share in the same way.
    ``workers`` processes read and decode ahead; with 0, this process reads each batch when it is needed. A CUDA device
    receives its copies from page-locked memory while it computes, that of the next batch before this one is handed out.
    ``waiting`` is called about twice a second while a batch of the workers is waited for; an exception that it raises
    ends the stream. ``started`` is called with the process IDs of the workers.

    Raises:
        ValueError: ``batch_size`` is not a positive multiple of ``ranks`` times ``parts``, or ``workers`` is negative.
        InputError: from the iterator, in the order of positions: a sample cannot be read.
        RuntimeError: a worker was killed.
    """
    if batch_size < 1 or batch_size % (parts * ranks):
        raise ValueError(f"a batch of {batch_size} does not divide into {parts} parts for each of {ranks} ranks")
    if workers < 0:
        raise ValueError(f"{workers} workers")
    size = batch_size // parts
    rows = size // ranks
    starts = count(position + rank * rows, size)  # endless
    slots = min(1 + parts + PREFETCH, SLOTS) if workers else 1
    layouts: list[tuple[tuple[int, ...], str]] = [((slots, rows, *dataset.manifest.shape), "uint8")]
    if companion is not None:
        layouts.append(((slots, rows, companion.width), companion.dtype))
    with ExitStack() as stack:
        rings = [stack.enter_context(closing(Ring(*layout, device))) for layout in layouts]
        if not workers:
            for start in starts:
                report = fill(dataset.reader, companion, start, [ring.array[0] for ring in rings])
                images, *numbers = [ring.take(0) for ring in rings]
                yield make_batch(start, images, report, *numbers)
                for ring in rings:
                    ring.wait(0)
        with closing(_WorkerPool(dataset.reader, companion, rings, workers)) as pool:
            started(pool.pids)
            for number, start in enumerate(starts):
                slot = number % slots
                if number >= slots:
                    report = pool.receive(waiting)
                    images, *numbers = [ring.take(slot) for ring in rings]
                    if followed := pool.is_ready():
                        for ring in rings:
                            ring.start((slot + 1) % slots)
                    yield make_batch(start - slots * size, images, report, *numbers, followed=followed)
                    for ring in rings:
                        ring.wait(slot)
                pool.request(slot, start)


def normalise(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (n, height, width, channels) to [-1, 1], (n, channels, height, width) in ``channels_last`` memory."""
    return images.permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)


class Ring:
    """Batches of a ``shape`` (slots, rows, ...) and type in shared memory, page-locked for a CUDA ``device``.

    The memory is an unlinked file, so that it is freed when the last process ends, even if it is killed. Raises
    ``OSError`` if there is not enough.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, device: torch.device) -> None:
        self.layout = shape, dtype
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.file = _open_memory()
        try:
            os.posix_fallocate(self.file.fileno(), 0, size)  # else a worker might be killed with SIGBUS
        except OSError as error:
            self.file.close()
            raise OSError(error.errno, error.strerror, f"{size >> 20} MiB of memory for batches") from error
        self.array = map_ring(self.file.fileno(), shape, dtype)
        self._tensor = torch.from_numpy(self.array)
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._copies: dict[int, torch.Tensor] = {}  # begun by start()
        self._events: dict[int, torch.cuda.Event] = {}  # the ends of the last copies
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
            torch.cuda.check_error(self._runtime.cudaHostRegister(self._tensor.data_ptr(), size, 0))

    def start(self, slot: int) -> None:
        """Begin to copy batch ``slot`` to the device, for the next :meth:`take`."""
        if self._stream is None:
            self._copies[slot] = torch.from_numpy(self.array[slot].copy())  # clone() would wake torch's threads
            return
        with torch.cuda.stream(self._stream):
            self._copies[slot] = self._tensor[slot].to(self._device, non_blocking=True)
            self._events[slot] = self._stream.record_event()

    def take(self, slot: int) -> torch.Tensor:
        """A copy of batch ``slot`` on the device, (rows, ...), for use on the current stream.

        On CUDA the copy is asynchronous, on a stream of its own; :meth:`wait` waits for it.
        """
        if slot not in self._copies:
            self.start(slot)
        copy = self._copies.pop(slot)
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._events[slot])
            copy.record_stream(current)
        return copy

    def wait(self, slot: int) -> None:
        """Wait until the copy of batch ``slot`` is done, so that it may be filled again."""
        if self._stream is not None:
            self._events[slot].synchronize()

    def close(self) -> None:
        """Unlock and free the memory; copies of batches stay valid."""
        if self._stream is not None:
            self._stream.synchronize()
            torch.cuda.check_error(self._runtime.cudaHostUnregister(self._tensor.data_ptr()))
        self.file.close()


def _open_memory() -> IO[bytes]:
    """A file in memory, but not in /dev/shm, which containers limit to 64 MB or mount read-only."""
    with suppress(AttributeError, OSError):  # macOS, where the temporary folder is as fast; a sandbox without it
        return os.fdopen(os.memfd_create("batches"), "r+b")
    return tempfile.TemporaryFile()


class _WorkerPool:
    """Fills the slots of ``rings`` in ``workers`` processes of :mod:`shards.loading.worker`.

    Each fills its own rows of every slot, rather than every n-th slot: they are its own lanes, so that only one worker
    opens or fetches each block of the data.
    """

    def __init__(self, reader: Reader, companion: Companion | None, rings: Sequence[Ring], workers: int) -> None:
        rows = len(rings[0].array[0])
        bounds = [rows * number // workers for number in range(workers + 1)]
        self._parts = [(first, last) for first, last in pairwise(bounds) if last > first]
        self._pool: list[WorkerProcess] = []
        self._polls: list[select.poll] = []
        files = [ring.file.fileno() for ring in rings]
        try:
            for _ in self._parts:
                self._pool.append(WorkerProcess("shards.loading.worker", files, blocked=SIGNALS))
                self._polls.append(select.poll())
                self._polls[-1].register(self._pool[-1].connection, select.POLLIN)
            for worker in self._pool:  # all start at once: a large message waits until its worker receives it
                worker.send((reader, companion, [ring.layout for ring in rings]))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The process IDs."""
        return [worker.pid for worker in self._pool]

    def request(self, slot: int, position: int) -> None:
        for worker, (first, last) in zip(self._pool, self._parts, strict=True):
            worker.send((slot, first, last, position + first))

    def is_ready(self) -> bool:
        """Whether :meth:`receive` would not wait."""
        return all(poll.poll(0) for poll in self._polls)

    def receive(self, waiting: Callable[[], object]) -> Report:
        reports: list[Report] = []
        try:
            for worker, poll in zip(self._pool, self._polls, strict=True):
                while not poll.poll(POLL):  # recv() would go on after a signal
                    waiting()
                reports.append(worker.receive())
        except WorkerDiedError as error:
            if error.killed_by is None:
                raise RuntimeError(f"A loader's worker {error}.") from None
            memory = ": out of memory? Fewer --data.workers need less" if error.killed_by is signal.SIGKILL else ""
            raise InputError(f"A loader's worker {error}{memory}. The same command resumes the run.") from None
        return Report(
            tuple(key for report in reports for key in report.keys),
            tuple(bad for report in reports for bad in report.bad),
            tuple(label for report in reports for label in report.labels),
        )

    def close(self) -> None:
        for worker in self._pool:
            worker.kill()
