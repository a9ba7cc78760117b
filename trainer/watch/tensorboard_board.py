"""TensorBoard, through accelerate: event files in ``tensorboard/`` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from shards.common.errors import InputError
from trainer.watch.board import AXIS

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raises ``InputError`` if TensorBoard, an optional dependency, is not installed."""
    if find_spec("tensorboard") is None:
        raise InputError(
            "--tracking.board tensorboard needs the extra `tensorboard`: uv sync --extra tensorboard, or "
            "pip install 'shardgan[tensorboard]'."
        )


class TensorBoard:
    """A :class:`trainer.watch.board.Board`. Purges rows past ``position`` that a killed process wrote: the resumed run
    logs them again.
    """

    startup_warning: str | None = None

    def __init__(self, accelerator: Accelerator, metadata: Mapping[str, Any], position: int) -> None:
        # accelerate appends the "project" to its logging_dir, which is the run folder.
        accelerator.init_trackers(FOLDER, init_kwargs={FOLDER: {"purge_step": position + 1}})
        self._tracker = accelerator.get_tracker(FOLDER)
        accelerator.trackers.clear()
        # As text: accelerate's store_init_configuration would create another run at each start.
        self._tracker.log({"config": "\n".join(f"    {name}: {value}" for name, value in metadata.items())}, position)

    def log(self, row: Mapping[str, Any]) -> None:
        self._tracker.log({name: value for name, value in row.items() if name != AXIS}, row[AXIS])

    def log_sheet(self, name: str, path: Path, caption: str, images: int) -> None:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        self._tracker.log_images({f"samples/{name}": pixels[None]}, images, dataformats="NHWC")
        self._tracker.log({f"samples/{name}": caption}, images)

    def log_checkpoint(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Does nothing: TensorBoard stores no files, and the config rejects ``artifacts`` with it."""

    def log_generator(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Does nothing, like ``log_checkpoint``."""

    def finish(self, *, failed: bool) -> None:  # noqa: ARG002
        self._tracker.finish()

    def abort(self) -> None:
        self._tracker.finish()
