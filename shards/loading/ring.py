"""Batches in memory that processes share: workers decode into it, the device copies out of it.

An unlinked file in memory, so that it is gone with its last process, however that ends.
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
"""Where files are memory on Linux; elsewhere the temporary folder serves, and the page cache makes it as fast."""


class Ring:
    """``slots`` batches of uint8 (rows, height, width, channels), page-locked for a CUDA ``device``.

    Raises:
        OSError: there is not so much memory.
    """

    def __init__(self, slots: int, shape: tuple[int, int, int, int], device: torch.device) -> None:
        self.shape = (slots, *shape)
        size = int(np.prod(self.shape))
        self._file = tempfile.TemporaryFile(dir=MEMORY if MEMORY.is_dir() else None)  # noqa: SIM115
        os.posix_fallocate(self._file.fileno(), 0, size)  # now, or a full /dev/shm would kill a worker with SIGBUS
        self.array = map_ring(self.fileno(), self.shape)
        self._tensor = torch.from_numpy(self.array)
        self._device = device
        self._copies: dict[int, torch.cuda.Event] = {}
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            torch.cuda.check_error(_runtime().cudaHostRegister(self._tensor.data_ptr(), size, 0))

    def fileno(self) -> int:
        """The file, to hand to another process for :func:`shards.loading.worker.map_ring`."""
        return self._file.fileno()

    def take(self, slot: int) -> torch.Tensor:
        """A copy of batch ``slot`` on the device, uint8 (rows, height, width, channels), ready for the current stream.

        On CUDA neither the host nor the device's arithmetic waits for it; :meth:`free` does.
        """
        if self._stream is None:
            return torch.from_numpy(self.array[slot].copy())  # clone() would wake all threads, which then spin
        with torch.cuda.stream(self._stream):
            images = self._tensor[slot].to(self._device, non_blocking=True)
            self._copies[slot] = self._stream.record_event()
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        images.record_stream(current)
        return images

    def free(self, slot: int) -> None:
        """Wait until what was taken from ``slot`` has left it."""
        if copy := self._copies.pop(slot, None):
            copy.synchronize()

    def close(self) -> None:
        """Unlock and release the memory; batches that were taken stay."""
        if self._stream is not None:
            self._stream.synchronize()
            torch.cuda.check_error(_runtime().cudaHostUnregister(self._tensor.data_ptr()))
        self._file.close()


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
