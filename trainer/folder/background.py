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
        self._pool.shutdown()
        for job in self._jobs:
            if error := job.exception():
                warnings.warn(str(error), stacklevel=2)


class Snapshot:
    """A copy of tensors in host memory, which is allocated once, contiguous and page-locked for tensors on a GPU.

    From CUDA the copy is only queued, in order with the training steps, so that neither host nor device waits.
    """

    def __init__(self) -> None:
        self._copy: dict[str, Tensors] = {}

    def take(self, tensors: Mapping[str, Tensors]) -> Callable[[], Mapping[str, Tensors]]:
        """Overwrite the last copy. The function that is returned waits for the new one; any thread may call it."""
        for name, group in tensors.items():
            copies = self._copy.setdefault(name, {})
            for key, tensor in group.items():
                if key not in copies:
                    copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                copies[key].copy_(tensor, non_blocking=True)
        device = next(tensor.device for group in tensors.values() for tensor in group.values())
        event = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None

        def finished() -> Mapping[str, Tensors]:
            if event:
                event.synchronize()
            return self._copy

        return finished
