"""What the training need not wait for: done by one thread, in order, from copies that nobody else changes."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from trainer.gan.optimizer import Tensors


class Background:
    """Runs jobs one at a time, in the order they came.

    A job's error is raised by the next call that it can be raised by, whichever that is.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._jobs: deque[Future[object]] = deque()

    def do(self, job: Callable[[], object]) -> None:
        """Do it when those before are done."""
        self.check()
        self._jobs.append(self._pool.submit(job))

    def check(self) -> None:
        """Raise what a finished job raised; does not wait."""
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft().result()

    def settle(self) -> None:
        """Wait for all."""
        while self._jobs:
            self._jobs.popleft().result()

    def close(self) -> None:
        """Wait for all; an error that nobody has heard of becomes a warning."""
        self._pool.shutdown(wait=True)
        for job in self._jobs:
            if error := job.exception():
                warnings.warn(str(error), stacklevel=2)
        self._jobs.clear()


class Snapshot:
    """A copy of a run's tensors in host memory, always the same memory: it costs as much again, once.

    On CUDA the copy is only queued, behind the steps that made the tensors and ahead of those that change them, so that
    neither the host nor the device waits for a disk.
    """

    def __init__(self) -> None:
        self._copy: dict[str, Tensors] = {}

    def take(self, tensors: Mapping[str, Tensors]) -> Callable[[], Mapping[str, Tensors]]:
        """Copy ``tensors``; returns what waits for the copy and hands it out, for another thread to call. The next
        ``take`` overwrites it.
        """
        if not self._copy:
            self._copy = {
                name: {key: _twin(tensor) for key, tensor in group.items()} for name, group in tensors.items()
            }
        for name, group in tensors.items():
            for key, tensor in group.items():
                self._copy[name][key].copy_(tensor, non_blocking=True)
        device = next(tensor.device for group in tensors.values() for tensor in group.values())
        if device.type != "cuda":
            return lambda: self._copy
        copied = torch.cuda.current_stream(device).record_event()

        def finished() -> Mapping[str, Tensors]:
            copied.synchronize()
            return self._copy

        return finished


def _twin(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, as it will be stored, and page-locked where a device copies to it."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
