"""Logs figures to ``metrics.jsonl`` and to a board: Weights & Biases or TensorBoard."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator

from shards.common.errors import InputError
from trainer.config import Config, Tracking, flatten
from trainer.folder.journal import Journal
from trainer.folder.run_folder import RunFolder
from trainer.watch import resend
from trainer.watch.board import AXIS, Board, BoardThread, JobSkipped
from trainer.watch.tensorboard_board import TensorBoard, check_installed
from trainer.watch.wandb_board import WandbBoard, stop_service, sync_hint
from trainer.watch.wandb_mode import resolve_mode

CHECKOUT = Path(__file__).parent.parent.parent


def check(tracking: Tracking) -> None:
    """Check that the requested board can be used on this machine.

    Raises:
        InputError: TensorBoard is not installed, W&B would reject the project name, or
            :func:`trainer.watch.wandb_mode.resolve_mode` raises it.
    """
    if tracking.board == "wandb":
        if not 0 < len(tracking.project) <= 128 or set(tracking.project) & set("/\\#?%:"):
            raise InputError(f"--tracking.project {tracking.project!r}: 1 to 128 characters, none of / \\ # ? % :")
        resolve_mode(tracking.mode)
    elif tracking.mode != "disabled":
        check_installed()


class Tracker:
    """Logs rows of figures, sheets of images and artifacts.

    The caller's thread writes the journal; a background thread calls the board. A failing board costs a warning and
    never stops, slows or fails a run.
    """

    def __init__(
        self, accelerator: Accelerator, folder: RunFolder, config: Config, metadata: Mapping[str, Any], position: int
    ) -> None:
        self._run, self._position = folder.path, position
        # Created before the journal is opened, because it lists what the journal holds.
        resend_job = resend.create_resend_job(folder, position) if config.tracking.board == "wandb" else None
        self._journal = Journal(folder.metrics)
        self._board = _start_board(accelerator, folder.path, config, metadata, position)
        self._resends = self._board is not None and resend_job is not None
        if self._board and resend_job:
            self._board.submit(resend_job)

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one row of scalars, including ``step`` and ``images``."""
        self._journal.append(row)
        if self._board:
            self._position = max(self._position, row[AXIS])
            self._board.submit(lambda board: board.log(row))
            self._board.emit_warnings()

    def log_sheet(self, name: str, path: Path, images: int, caption: str = "") -> None:
        """Log the PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""
        if self._board:
            self._board.submit(lambda board: board.log_sheet(name, path, caption, images))

    def log_checkpoint(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Log the published checkpoint in ``folder`` as an artifact."""
        if self._board:
            self._board.submit(lambda board: board.log_checkpoint(folder, metadata))

    def log_generator(self, name: str, export: Callable[[Path], Mapping[str, Any]]) -> None:
        """Log an exported generator as an artifact.

        Args:
            name: Name of the exported folder.
            export: Writes the generator into the given folder, which does not exist yet, and returns its metadata. The
                board's thread calls it.
        """

        def export_and_log(board: Board) -> None:
            with TemporaryDirectory() as parent:
                folder = Path(parent) / name
                try:
                    metadata = export(folder)
                except Exception as error:  # whatever it is, it must not cost the rows that are still queued
                    raise JobSkipped(f"has no generator of this run: its export failed ({error}).") from error
                board.log_generator(folder, metadata)

        if self._board:
            self._board.submit(export_and_log)

    def sync(self) -> None:
        """Make the journal durable, before a checkpoint that relies on it is published."""
        self._journal.sync()

    def close(self, *, failed: bool) -> None:
        """Close the journal and finish the board's run as failed or not, within a minute."""
        self._journal.close()
        if self._board and self._board.close(failed=failed) and self._resends:
            resend.record_sent(self._run, self._position)


def _start_board(
    accelerator: Accelerator, run: Path, config: Config, metadata: Mapping[str, Any], position: int
) -> BoardThread | None:
    tracking = config.tracking
    mode = resolve_mode(tracking.mode) if tracking.board == "wandb" else tracking.mode
    if mode == "disabled":
        return None

    def full_metadata() -> dict[str, Any]:
        return {**flatten(config), **metadata, **code_version()}

    if tracking.board == "tensorboard":
        hint = f"See what was written with: tensorboard --logdir {run}"
        return BoardThread("TensorBoard", hint, lambda: TensorBoard(accelerator, full_metadata(), position))
    return BoardThread(
        "Weights & Biases",
        sync_hint(run),
        lambda: WandbBoard(accelerator, run, tracking.project, mode, full_metadata()),
        on_timeout=lambda: stop_service(timeout=0),
    )


def code_version(checkout: Path = CHECKOUT) -> dict[str, str | bool]:
    """``code.commit`` and ``code.dirty`` of the git checkout that this code runs from, or ``code.version`` of the
    installed package where there is no checkout or git fails. Called by the board's thread: git may take 10 s.
    """
    if (checkout / ".git").exists():
        try:
            dirty = bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))
            return {"code.commit": _git(checkout, "rev-parse", "HEAD"), "code.dirty": dirty}
        except (OSError, subprocess.SubprocessError):
            pass  # git is not installed, or refuses to read another user's checkout
    try:
        return {"code.version": version("shardgan")}
    except PackageNotFoundError:
        return {"code.version": "unknown"}


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
