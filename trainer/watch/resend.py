"""On resume, sends rows and sheets that were logged since the last clean finish again.

Without this module W&B's charts and sheets would have a gap before every kill: a kill destroys the queue, and wandb's
process with the rows that it has not written. The file ``board-has`` in the run folder holds the position, in real
images consumed, up to which W&B is known to have everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from shards.common.files import atomic_write
from trainer.folder.run_folder import RunFolder
from trainer.watch.board import AXIS, Board

FILE_NAME = "board-has"


def record_sent(run: Path, position: int) -> None:
    """Record that the board has everything up to ``position``."""
    with atomic_write(run / FILE_NAME) as file:
        file.write(f"{position}\n".encode())


def create_resend_job(folder: RunFolder, position: int) -> Callable[[Board], None]:
    """A job that sends the rows and sheets of the run up to ``position``, where it resumes, in order. A row may be sent
    twice, with the same figures at the same position.

    The files are listed now, before the run adds to them, and read by the job.
    """
    try:
        sent = int((folder.path / FILE_NAME).read_text())
    except (OSError, ValueError):
        sent = -1
    if sent > position:
        record_sent(folder.path, position)  # later rows are computed again, perhaps with another batch size
    size = folder.metrics.stat().st_size if folder.metrics.exists() else 0
    sheets = sorted(folder.samples.glob("*.png"))

    def resend(board: Board) -> None:
        calls: list[tuple[int, Callable[[], None]]] = []
        if size:
            with folder.metrics.open("rb") as file:
                rows = [json.loads(line) for line in file.read(size).splitlines()]
            calls += [(row[AXIS], partial(board.log, row)) for row in rows]
        for path in sheets:
            if (metadata := _read_sheet_metadata(path)) is not None:
                images, name, caption = metadata
                calls.append((images, partial(board.log_sheet, name, path, caption, images)))
        for images, call in sorted(calls, key=lambda entry: entry[0]):
            if sent < images <= position:
                call()

    return resend


def _read_sheet_metadata(path: Path) -> tuple[int, str, str] | None:
    """Position, name and caption that the trainer stores in the PNG, or None if it has none."""
    try:
        with Image.open(path) as sheet:
            return int(sheet.info[AXIS]), sheet.info["name"], sheet.info["caption"]
    except (OSError, KeyError, ValueError):
        return None
