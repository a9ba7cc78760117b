"""Where figures go: ``metrics.jsonl`` always, and a board for people, Weights & Biases or TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator

from shards.common.errors import InputError
from trainer.config import Config, Tracking, flatten
from trainer.export.__main__ import write
from trainer.folder.journal import Journal
from trainer.folder.load_run import load_run
from trainer.folder.run_folder import RunFolder
from trainer.watch import resend
from trainer.watch.board import AXIS, Board, NotDone
from trainer.watch.board_thread import Courier
from trainer.watch.tensorboard_board import TensorBoard, check_installed
from trainer.watch.version import code_version
from trainer.watch.wandb_board import WandbBoard
from trainer.watch.wandb_board import remedy as remedy_for
from trainer.watch.wandb_mode import resolve_mode
from trainer.watch.wandb_process import let_go


def check(tracking: Tracking) -> None:
    """Whether this machine has what the config asks for.

    Raises:
        InputError: TensorBoard without its package; a project that W&B would refuse; or as
            :func:`trainer.watch.wandb_mode.resolve_mode`.
    """
    if tracking.board == "wandb":
        if not 0 < len(tracking.project) <= 128 or set(tracking.project) & set("/\\#?%:"):
            raise InputError(f"--tracking.project {tracking.project!r}: 1 to 128 characters, none of / \\ # ? % :")
        resolve_mode(tracking.mode)
    elif tracking.mode != "disabled":
        check_installed()


class Tracker:
    """Writes rows of figures and sheets of images.

    The journal is written at once, by the caller. No failure of the board stops, slows or fails a run; the first one is
    said once.
    """

    def __init__(
        self, accelerator: Accelerator, folder: RunFolder, config: Config, facts: Mapping[str, Any], position: int = 0
    ) -> None:
        self._run, self._reached = folder.path, position
        # Looked up first: it reads the journal as it stands.
        missing = resend.what_is_missing(folder, position) if config.tracking.board == "wandb" else None
        self._journal = Journal(folder.metrics)
        self._board = _hire(accelerator, folder.path, config, facts, position)
        self._resends = self._board is not None and missing is not None
        if self._board and missing:
            self._board.do(missing)

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of scalars; must hold ``step`` and ``images``."""
        self._journal.append(row)
        if self._board:
            self._reached = max(self._reached, row[AXIS])
            self._board.do(lambda board: board.log(row))
            self._board.tell()

    def log_sheet(self, name: str, path: Path, images: int, caption: str = "") -> None:
        """The PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""
        if self._board:
            self._board.do(lambda board: board.show(name, path, caption, images))

    def log_checkpoint(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """The published checkpoint in ``folder``, as an artifact."""
        if self._board:
            self._board.do(lambda board: board.keep(folder, facts))

    def log_generator(self, run: Path) -> None:
        """The generator of the run's newest checkpoint, exported, as an artifact. The courier does all of it."""

        def offer(board: Board) -> None:
            with TemporaryDirectory() as place:
                folder = Path(place) / f"{run.name}-generator"
                try:
                    known = write(load_run(run), folder)
                except Exception as error:  # whatever it is, the board's rows are worth more
                    raise NotDone(f"has no generator of this run: its export failed ({error}).") from error
                board.offer(folder, known)

        if self._board:
            self._board.do(offer)

    def sync(self) -> None:
        """Make the journal durable; called before a checkpoint that counts on it is published."""
        self._journal.sync()

    def close(self, *, failed: bool) -> None:
        """Close the journal, and finish the board's run as failed or not: a minute at most."""
        self._journal.close()
        if self._board and self._board.close(failed=failed) and self._resends:
            resend.note(self._run, self._reached)


def _hire(
    accelerator: Accelerator, run: Path, config: Config, facts: Mapping[str, Any], position: int
) -> Courier | None:
    """The courier to the board that ``config`` asks for."""
    tracking = config.tracking
    mode = resolve_mode(tracking.mode) if tracking.board == "wandb" else tracking.mode
    if mode == "disabled":
        return None

    def told() -> dict[str, Any]:
        return {**flatten(config), **facts, **code_version()}

    if tracking.board == "tensorboard":
        remedy = f"What it has: tensorboard --logdir {run}"
        return Courier("TensorBoard", remedy, lambda: TensorBoard(accelerator, told(), position))
    return Courier(
        "Weights & Biases",
        remedy_for(run),
        lambda: WandbBoard(accelerator, run, tracking.project, mode, told()),
        leave=lambda: let_go(grace=0),
    )
