"""Batches in shared memory: workers decode into it, the device copies from it.

The memory is an unlinked file, so that it is freed when the last process ends, even if it is killed.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shards.loading.worker import map_ring

MEMORY = Path("/dev/shm")
"""In memory on Linux. Elsewhere the temporary folder is used, and is as fast in the page cache."""


class Ring:
    """``slots`` batches of uint8 (rows, height, width, channels), page-locked for a CUDA ``device``.

    Raises:
        OSError: there is not enough memory.
    """

    def __init__(self, slots: int, shape: tuple[int, int, int, int], device: torch.device) -> None:
        self.shape = (slots, *shape)
        size = int(np.prod(self.shape))
        self._file = tempfile.TemporaryFile(dir=MEMORY if MEMORY.is_dir() else None)  # noqa: SIM115
        os.posix_fallocate(self._file.fileno(), 0, size)  # else a full /dev/shm would kill a worker with SIGBUS
        self.array = map_ring(self.fileno(), self.shape)
        self._tensor = torch.from_numpy(self.array)
        self._device = device
        self._copies: dict[int, torch.cuda.Event] = {}
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            torch.cuda.check_error(_runtime().cudaHostRegister(self._tensor.data_ptr(), size, 0))

    def fileno(self) -> int:
        """The file descriptor, for :func:`shards.loading.worker.map_ring` in another process."""
        return self._file.fileno()

    def take(self, slot: int) -> torch.Tensor:
        """A copy of batch ``slot`` on the device, uint8 (rows, height, width, channels), for use on the current stream.

        On CUDA the copy is asynchronous, on a stream of its own; :meth:`free` waits for it.
        """
        if self._stream is None:
            return torch.from_numpy(self.array[slot].copy())  # clone() would wake torch's threads, which then spin
        with torch.cuda.stream(self._stream):
            images = self._tensor[slot].to(self._device, non_blocking=True)
            self._copies[slot] = self._stream.record_event()
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        images.record_stream(current)
        return images

    def free(self, slot: int) -> None:
        """Wait until the copy from ``slot`` is done."""
        if copy := self._copies.pop(slot, None):
            copy.synchronize()

    def close(self) -> None:
        """Unlock and free the memory; copies of batches stay valid."""
        if self._stream is not None:
            self._stream.synchronize()
            torch.cuda.check_error(_runtime().cudaHostUnregister(self._tensor.data_ptr()))
        self._file.close()


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
