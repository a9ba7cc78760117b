"""Writes checkpoints on a background thread while training continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shards.loading.dataset import ShardDataset
from trainer.config import Config
from trainer.folder import checkpoint
from trainer.folder.background import Background, Snapshot
from trainer.gan.factory import describe_networks
from trainer.gan.state import State


class CheckpointWriter:
    """Copies the state to host memory and writes the copy to ``folder``, of which the newest ``keep`` stay.

    The next call of ``save``, ``check`` or ``wait`` raises ``InputError`` if a checkpoint could not be written.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep
        self._thread, self._snapshot = Background(), Snapshot()

    def save(self, state: State, metadata: Mapping[str, Any], on_written: Callable[[Path], None]) -> None:
        """Start a checkpoint of ``state``; ``on_written`` is called with its path by the thread.

        The one before must be written, because its copy is overwritten: call :meth:`wait` first.
        """
        copy, step = self._snapshot.take(state.tensors()), state.step

        def write() -> None:
            on_written(checkpoint.save(self._folder, step, copy(), metadata, self._keep))

        self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of a failed checkpoint; does not wait."""
        self._thread.check()

    def wait(self) -> None:
        """Wait until the last checkpoint is written."""
        self._thread.wait()

    def close(self) -> None:
        """Wait for the thread; an error becomes a warning."""
        self._thread.close()


def checkpoint_metadata(config: Config, dataset: ShardDataset, state: State, precision: str) -> dict[str, Any]:
    """What a checkpoint stores besides tensors, JSON-ready."""
    manifest, order = dataset.manifest, dataset.order
    return {
        "step": state.step,
        "position": state.position,
        "seed": config.seed,
        "lanes": order.lanes,
        "block": order.block,
        "manifest": manifest.digest,
        "data": manifest.summary,
        "precision": precision,
        "scaler": state.scaler.state_dict(),
        "networks": describe_networks(config.model, manifest.size, manifest.channels),
    }
