"""Logs figures to ``metrics.jsonl`` and to a board: Weights & Biases or TensorBoard."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator
from PIL import Image

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.format.image import FORMATS
from trainer.config import Config, Tracking, flatten
from trainer.folder.journal import Journal, read_figures
from trainer.folder.run_folder import RunFolder
from trainer.watch.board import AXIS, Board, BoardThread, Job, JobSkipped, TensorBoard
from trainer.watch.wandb_board import WandbBoard, resolve_mode
from trainer.watch.wandb_environment import SENT, check_names

CHECKOUT = Path(__file__).parent.parent.parent


def check(tracking: Tracking) -> None:
    """Check that the requested board can be used on this machine.

    Raises ``InputError`` if TensorBoard is not installed, or W&B would reject a name, the settings or the mode.
    """
    if tracking.board == "wandb":
        if tracking.mode != "disabled":
            check_names(tracking.project)
        resolve_mode(tracking.mode)
    elif tracking.mode != "disabled" and find_spec("tensorboard") is None:
        raise InputError(
            "--tracking.board tensorboard needs the extra `tensorboard`: uv sync --extra tensorboard, or "
            "pip install 'shardgan[tensorboard]'."
        )


class Tracker:
    """Logs rows of figures, sheets of images and artifacts.

    The caller's thread writes the journal; a background thread calls the board. A failing board costs a warning and
    never stops, slows or fails a run.
    """

    def __init__(
        self, accelerator: Accelerator, folder: RunFolder, config: Config, metadata: Mapping[str, Any], position: int
    ) -> None:
        self._folder, self._position = folder, position
        self._resends = config.tracking.board == "wandb"
        self._journal = Journal(folder.metrics)
        sent = _read_sent(folder, position)
        self._board = _start_board(accelerator, folder.path, config, metadata, position)
        if self._board and self._resends:
            self._submit(create_resend_job(folder, sent, position))

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one row of scalars, including ``step`` and ``images``."""
        self._journal.append(row)
        self._position = max(self._position, row[AXIS])
        self._submit(lambda board: board.log(row))
        if self._board:
            self._board.emit_warnings()

    def log_sheet(self, name: str, path: Path, images: int, caption: str = "") -> None:
        """Log the PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""
        self._submit(lambda board: board.log_sheet(name, path, caption, images))

    def alert(self, text: str) -> None:
        """Notify the user by the board."""
        self._submit(lambda board: board.alert(text))

    def log_checkpoint(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Log the published checkpoint in ``folder`` as an artifact."""
        self._submit(lambda board: board.log_checkpoint(folder, metadata))

    def log_generator(self, name: str, export: Callable[[Path], Mapping[str, Any]]) -> None:
        """Log an exported generator as an artifact. The board's thread calls ``export``, which writes the generator
        into the given new folder, called ``name``, and returns its metadata.
        """

        def export_and_log(board: Board) -> None:
            with TemporaryDirectory() as parent:
                folder = Path(parent) / name
                try:
                    metadata = export(folder)
                except Exception as error:  # whatever it is, it must not cost the rows that are still queued
                    raise JobSkipped(f"has no generator of this run: its export failed ({error}).") from error
                board.log_generator(folder, metadata)

        self._submit(export_and_log)

    def sync(self) -> None:
        """Make the journal durable, before a checkpoint that relies on it is published."""
        self._journal.sync()

    def close(self, *, failed: bool) -> None:
        """Close the journal and finish the board's run as failed or not, within a minute."""
        self._journal.close()
        if self._board and self._board.close(failed=failed) and self._resends:
            _record_sent(self._folder, self._position)

    def _submit(self, job: Job) -> None:
        if self._board:
            self._board.submit(job)


def _start_board(
    accelerator: Accelerator, run: Path, config: Config, metadata: Mapping[str, Any], position: int
) -> BoardThread | None:
    tracking = config.tracking
    mode, warning = resolve_mode(tracking.mode) if tracking.board == "wandb" else (tracking.mode, None)
    if mode == "disabled":
        return None

    def full_metadata() -> dict[str, Any]:
        return {**flatten(config), **metadata, **code_version()}

    if tracking.board == "tensorboard":
        return BoardThread(TensorBoard(accelerator, run, full_metadata, position))
    board = WandbBoard(accelerator, run, tracking.project, mode, full_metadata)
    board.startup_warning = warning
    return BoardThread(board)


def create_resend_job(folder: RunFolder, sent: int, position: int) -> Job:
    """A job that sends the rows and sheets that W&B may lack, from ``sent`` to ``position``, where the run resumes, in
    order.

    Without it charts would have a gap before every kill, which destroys the queue and what wandb's process has not
    written. A row may be sent twice, with the same figures at the same position. What there is to send is determined
    now, before the run adds to it, and read by the job.
    """
    size = folder.metrics.stat().st_size
    sheets = sorted(folder.samples.glob("*.png"))

    def resend(board: Board) -> None:
        first = 0 if board.is_empty else sent + 1
        rows = [row for row in read_figures(folder.metrics, size=size) if first <= row[AXIS] <= position]
        calls: list[tuple[int, Callable[[], None]]] = [(row[AXIS], partial(board.log, row)) for row in rows]
        for path in sheets:
            try:
                with Image.open(path, formats=FORMATS) as sheet:
                    images, name, caption = int(sheet.info[AXIS]), sheet.info["name"], sheet.info["caption"]
            except (OSError, KeyError, ValueError):
                continue  # not written by the trainer
            if first <= images <= position:
                calls.append((images, partial(board.log_sheet, name, path, caption, images)))
        for _, call in sorted(calls, key=lambda entry: entry[0]):
            call()

    return resend


def _read_sent(folder: RunFolder, position: int) -> int:
    """The position up to which W&B has everything, at most ``position``, where the run resumes: later rows are computed
    again, perhaps with another batch size and without a board.
    """
    try:
        sent = int((folder.path / SENT).read_text())
    except (OSError, ValueError):
        return -1
    if sent > position:
        _record_sent(folder, position)
    return min(sent, position)


def _record_sent(folder: RunFolder, position: int) -> None:
    with atomic_write(folder.path / SENT) as file:
        file.write(f"{position}\n".encode())


def code_version(checkout: Path = CHECKOUT) -> dict[str, str | bool]:
    """``code.version`` of the installed package, and ``code.commit`` and ``code.dirty`` if this code runs from a git
    checkout and git does not fail. Called in the background: git may take 10 s.
    """
    found: dict[str, str | bool] = {"code.version": "unknown"}
    with suppress(PackageNotFoundError):
        found["code.version"] = version("shardgan")
    if (checkout / ".git").exists():
        command = ["git", "--no-optional-locks", "-C", str(checkout)]
        command += ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]  # the commit instead of a tag
        with suppress(OSError, subprocess.SubprocessError):  # not installed, or refuses to read another user's checkout
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
            commit, _, dirty = done.stdout.strip().partition("-")
            found |= {"code.commit": commit, "code.dirty": bool(dirty)}
    return found
