"""A thread for jobs such as writing a checkpoint, and copies of tensors for it, so that training does not wait."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from trainer.gan.optimizer import Tensors


class Background:
    """Runs jobs in order on one thread; the next ``submit``, ``check`` or ``wait`` raises a failed job's error."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._jobs: deque[Future[object]] = deque()

    def submit(self, job: Callable[[], object]) -> None:
        """Run ``job`` after the earlier ones."""
        self.check()
        self._jobs.append(self._pool.submit(job))

    def check(self) -> None:
        """Raise the error of a finished job; does not wait."""
        while self._jobs and self._jobs[0].done():
            self._jobs.popleft().result()

    def wait(self) -> None:
        """Wait for all jobs."""
        while self._jobs:
            self._jobs.popleft().result()

    def close(self) -> None:
        """Wait for all jobs; errors that have not been raised become warnings."""
        self._pool.shutdown(wait=True)
        for job in self._jobs:
            if error := job.exception():
                warnings.warn(str(error), stacklevel=2)
        self._jobs.clear()


class Snapshot:
    """A copy of a run's tensors in host memory, which is allocated once and reused.

    From CUDA the copy is only queued, in order with the training steps, so that neither host nor device waits.
    """

    def __init__(self) -> None:
        self._copy: dict[str, Tensors] = {}

    def take(self, tensors: Mapping[str, Tensors]) -> Callable[[], Mapping[str, Tensors]]:
        """Copy ``tensors``, overwriting the last copy. The function that is returned waits for the copy and returns
        it; another thread may call it.
        """
        if not self._copy:
            self._copy = {
                name: {key: _empty_copy(tensor) for key, tensor in group.items()} for name, group in tensors.items()
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


def _empty_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, as it will be stored; page-locked for a tensor on a GPU."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
