"""TensorBoard, through accelerate: event files in ``tensorboard/`` of the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from trainer.watch.board import AXIS, Board

FOLDER = "tensorboard"


class TensorBoard(Board):
    """Purges rows past ``position`` that a killed process wrote: the resumed run logs them again. Stores no files."""

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

    def finish(self, *, failed: bool) -> None:  # noqa: ARG002
        self._tracker.finish()
