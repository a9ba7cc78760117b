"""A thread for jobs, and the writer of checkpoints, which copies tensors for it so that training does not wait."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from trainer.folder import checkpoint
from trainer.gan.optimizer import Tensors
from trainer.gan.state import State


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
        while self._jobs:
            self._jobs.popleft().result()

    def close(self) -> None:
        """Wait for all jobs; errors that have not been raised become warnings."""
        self._pool.shutdown()
        for job in self._jobs:
            if error := job.exception():
                warnings.warn(str(error), stacklevel=2)


class CheckpointWriter(Background):
    """Copies the state to host memory and writes the copy to ``folder``, where the newest ``keep`` stay.

    The next call of ``save``, ``check`` or ``wait`` raises ``InputError`` if a checkpoint could not be written.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        super().__init__()
        self._folder, self._keep = folder, keep
        self._copies: dict[str, Tensors] = {}

    def save(
        self,
        state: State,
        metadata: Mapping[str, Any],
        on_written: Callable[[Path], None],
        protected: Collection[str] = (),
    ) -> None:
        """Start a checkpoint of ``state``; ``on_written`` is called with its path by the thread. Those whose names are
        ``protected`` are kept too.

        The one before must be written, because its copy is overwritten: call :meth:`wait` first.
        """
        copied, step = copy_to_host(state.tensors(), self._copies), state.step

        def write() -> None:
            if copied:
                copied.synchronize()
            on_written(checkpoint.save(self._folder, step, self._copies, metadata, self._keep, protected))

        self.submit(write)


def copy_to_host(tensors: Mapping[str, Tensors], copies: dict[str, Tensors]) -> torch.cuda.Event | None:
    """Copy ``tensors`` to ``copies``, which the first call allocates: contiguous, and page-locked for tensors on a GPU.

    From CUDA the copy is only queued, in order with the training steps, so that neither host nor device waits. The
    event that is then returned marks its end.
    """
    for name, group in tensors.items():
        target = copies.setdefault(name, {})
        for key, tensor in group.items():
            if key not in target:
                target[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            target[key].copy_(tensor, non_blocking=True)
    device = next(tensor.device for group in tensors.values() for tensor in group.values())
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
