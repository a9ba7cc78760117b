"""TensorBoard, through accelerate: event files in the run folder's ``tensorboard/``."""

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
    """Raises ``InputError`` without the package, which is an extra."""
    if find_spec("tensorboard") is None:
        raise InputError(
            "--tracking.board tensorboard needs the extra of that name: uv sync --extra tensorboard, or "
            "pip install 'shardgan[tensorboard]'."
        )


class TensorBoard:
    """A :class:`trainer.watch.board.Board`.

    Rows past ``position`` that an earlier process wrote before it was killed are purged: they come again.
    """

    note: str | None = None

    def __init__(self, accelerator: Accelerator, facts: Mapping[str, Any], position: int) -> None:
        # The "project" is the folder's name: accelerate puts it below its logging_dir, which is the run folder.
        accelerator.init_trackers(FOLDER, init_kwargs={FOLDER: {"purge_step": position + 1}})
        self._tracker = accelerator.get_tracker(FOLDER)
        accelerator.trackers.clear()
        # As text: accelerate's own way makes another run of each start, named by the second.
        self._tracker.log({"config": "\n".join(f"    {name}: {value}" for name, value in facts.items())}, position)

    def log(self, row: Mapping[str, Any]) -> None:
        self._tracker.log({name: value for name, value in row.items() if name != AXIS}, row[AXIS])

    def show(self, name: str, path: Path, caption: str, images: int) -> None:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        self._tracker.log_images({f"samples/{name}": pixels[None]}, images, dataformats="NHWC")
        self._tracker.log({f"samples/{name}": caption}, images)

    def keep(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """It stores no files; the config refuses to ask for it."""

    def offer(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """As ``keep``."""

    def finish(self, *, failed: bool) -> None:  # noqa: ARG002
        self._tracker.finish()

    def abandon(self) -> None:
        self._tracker.finish()
