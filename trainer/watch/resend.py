"""What a board may lack of a run that was killed, sent once more: of what was under way nobody knows how far it came.

A kill takes the queue, and wandb's process with what it had not written. Only a board that was finished is known to
have everything; how far that was stands in the run folder's file ``board-has``, in real images consumed.
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

NAME = "board-has"


def note(run: Path, images: int) -> None:
    """Write down that the board has everything up to ``images``."""
    with atomic_write(run / NAME) as file:
        file.write(f"{images}\n".encode())


def what_is_missing(folder: RunFolder, position: int) -> Callable[[Board], None]:
    """The job that sends rows and sheets of the run up to ``position``, where it goes on, in their order. A row may
    come twice, with the same figures at the same place.

    What there is to send is looked up now, before the run writes on; it is read when the job is done.
    """
    try:
        has = int((folder.path / NAME).read_text())
    except (OSError, ValueError):
        has = -1
    if has > position:
        note(folder.path, position)  # from here on it comes again, perhaps in batches of another size
    written = folder.metrics.stat().st_size if folder.metrics.exists() else 0
    sheets = sorted(folder.samples.glob("*.png"))

    def send(board: Board) -> None:
        jobs: list[tuple[int, Callable[[], None]]] = []
        if written:
            with folder.metrics.open("rb") as file:
                rows = [json.loads(line) for line in file.read(written).splitlines()]
            jobs += [(row[AXIS], partial(board.log, row)) for row in rows]
        for path in sheets:
            if (told := _told(path)) is not None:
                jobs.append((told[0], partial(board.show, told[1], path, told[2], told[0])))
        for _, job in sorted((job for job in jobs if has < job[0] <= position), key=lambda job: job[0]):
            job()

    return send


def _told(path: Path) -> tuple[int, str, str] | None:
    """Position, name and caption, as the trainer wrote them into the sheet; None where they are not there."""
    try:
        with Image.open(path) as sheet:
            return int(sheet.info[AXIS]), sheet.info["name"], sheet.info["caption"]
    except (OSError, KeyError, ValueError):
        return None
