"""What a run writes besides checkpoints: the terminal, figures, sheets, the audit and the list of bad samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from shards.common.sheet import write_sheet
from shards.loading.dataset import Batch
from trainer.config import Judge
from trainer.evaluate.picture import draw_scores
from trainer.export.folder import write_folder
from trainer.folder.background import Background
from trainer.folder.checkpoint import checkpoint_name, checkpoints, remove
from trainer.folder.journal import BadSampleLog, Journal, read_figures, roll_back_folder
from trainer.folder.known_scores import KnownScores
from trainer.folder.load_run import load_run
from trainer.folder.run_folder import RunFolder, RunState
from trainer.folder.score_log import Result, best, comparable, find_best, format_scores, read_scores
from trainer.gan.state import State
from trainer.watch.board import AXIS
from trainer.watch.health import Health, Problem
from trainer.watch.meter import DataAdvisor
from trainer.watch.progress import Progress
from trainer.watch.tracker import Tracker


@dataclass(kw_only=True)
class Outputs:
    """All outputs of one rank. Only the main rank has a tracker and draws sheets."""

    folder: RunFolder
    known_scores: KnownScores
    progress: Progress
    tracker: Tracker | None
    audit: Journal | None
    bad_samples: BadSampleLog
    advisor: DataAdvisor
    problems: list[str] = field(default_factory=list)
    sheets: Background = field(default_factory=Background)  # its own thread: a slow board must not delay a checkpoint

    def record_step(self, state: State, batches: Sequence[Batch]) -> None:
        """Log the samples of a step that is done."""
        if self.audit:
            keys = [key for batch in batches for key in batch.keys]
            self.audit.append({"step": state.step, "position": batches[0].position, "keys": keys})
        for batch in batches:
            self.bad_samples.add(batch.bad, state.step)
        self.progress.step()

    def report(self, row: Mapping[str, float], state: State, seconds_left: float) -> None:
        """Show and log one row of figures; raises ``InputError`` if it, or an earlier sheet, could not be written."""
        self.sheets.check()
        self.progress.report(row, seconds_left)
        if advice := self.advisor.advise(row["data/wait"]):
            self.progress.write(advice)
        if self.tracker:
            self.tracker.log(row)
            self.write_status(state)

    def log_scores(self, results: Sequence[Result], epoch: float, by: Judge | None) -> None:
        """Show, log and draw the scores of one checkpoint."""
        self.known_scores.append(results)
        scores = {name: value for result in results for name, value in result.scores.items()}
        self.progress.write(f"scores of step {results[0].step}: {format_scores(scores)}")
        if self.tracker:
            figures = {f"evaluation/{name}": value for name, value in scores.items()}
            self.tracker.log({**figures, "step": results[0].step, AXIS: results[0].position, "epoch": epoch})
        if find_spec("matplotlib"):
            self.sheets.submit(partial(self._draw_scores, by))

    def _draw_scores(self, by: Judge | None) -> None:
        try:
            results = read_scores(self.folder.scores)
            draw_scores(results, find_best(self.folder, results, by), self.folder.evaluation)
        except Exception as error:  # of a picture that no training should end for
            self.progress.write(f"warning: {self.folder.evaluation} is not drawn: {error}.")

    def warn(self, problem: str, state: State, *, alert: bool) -> None:
        """Show a problem of the training on the terminal, in ``status.json`` and, with ``alert``, by the board."""
        self.progress.write(f"warning: step {state.step}: {problem}.")
        self.problems.append(f"step {state.step}: {problem}")
        if self.tracker:
            self.write_status(state)
            if alert:
                self.tracker.alert(f"{self.folder.path}: step {state.step}: {problem}.")

    def write_status(self, state: State, run_state: RunState = "running") -> None:
        """Say that the run is at ``state``, with the problems of its training."""
        self.folder.write_status(run_state, state.step, state.position, **self.warnings)

    @property
    def warnings(self) -> dict[str, list[str]]:
        """What ``status.json`` says of the problems of the training; empty if there are none."""
        return {"warnings": self.problems} if self.problems else {}

    def checkpoints_to_return_to(self, by: Judge | None, since: int) -> list[str]:
        """Names of the checkpoints from before step ``since``: the best one, then the others, newest first."""
        names = [path.name for path in checkpoints(self.folder.checkpoints) if path.name < checkpoint_name(since)]
        found = best((result for result in self.known_scores.read() if result.checkpoint in names), by)
        return sorted(names, key=lambda name: (found is not None and name == found[1].checkpoint, name), reverse=True)

    def recall_health(
        self, judges: tuple[str, ...], questions: Sequence[object]
    ) -> tuple[Health, list[tuple[int, Problem]]]:
        """What the journals say of the training so far, and its problems, each with the step that showed it.

        ``questions`` are those of its own evaluations: with other numbers of images, scores are others. Without any,
        all results count, which are those of another process.
        """
        health, losses, evaluations = Health(judges), dict[int, float](), dict[int, dict[str, float]]()
        for row in read_figures(self.folder.metrics):
            if isinstance(row.get("loss/d"), int | float):
                losses[row["step"]] = row["loss/d"]
        self.known_scores.read()  # first: it restores what a damaged file has lost
        results = [each for each in read_scores(self.folder.scores) if not questions or each.question in questions]
        for name in (*judges, "ms-ssim", "ms-ssim-real"):
            for result in comparable(results, name):
                evaluations.setdefault(result.step, {})[name] = result.scores[name]
        return health, health.replay(losses, evaluations)

    def roll_back(self, state: State, audit: Path | None, cause: str) -> None:
        """On the main rank, remove what came after the checkpoint that ``state`` returned to, and record it."""
        self.progress.write(f"Back to step {state.step}, with other latents: {cause}")
        self.progress.rewind(state.step)
        with closing(Journal(self.folder.rollbacks)) as journal:  # first, or a kill would repeat the same latents
            row = {"step": state.step, "position": state.position, "rollbacks": state.rollbacks, "cause": cause}
            journal.append(row)
            journal.sync()
        for path in reversed(checkpoints(self.folder.checkpoints)):  # the newest first: a kill leaves a run to resume
            if path.name > checkpoint_name(state.step):
                remove(path)
        self.sheets.wait()  # or a sheet that is being drawn would stay
        roll_back_folder(self.folder, audit, state.step)

    def record_rollback(self, state: State, cause: str) -> None:
        """Say in the audit that the samples after ``state`` are trained on again."""
        if self.audit:
            self.audit.append({"step": state.step, "position": state.position, "keys": [], "rollback": cause})

    def draw_sheet(
        self, name: str, file: str, images: np.ndarray, caption: str, position: int, rows: Sequence[str] = ()
    ) -> None:
        """Write ``images``, uint8 (n, height, width, channels), to the PNG ``file``, on a background thread. ``rows``
        are the names of classes, see :func:`shards.common.sheet.write_sheet`.
        """
        path = self.folder.samples / file

        def draw() -> None:
            write_sheet(images, path, {"name": name, "caption": caption, AXIS: str(position)}, rows)
            if self.tracker:
                self.tracker.log_sheet(name, path, position, caption)

        self.sheets.submit(draw)

    def log_generator(self) -> None:
        """Log the generator of the newest checkpoint as an artifact of the board."""
        run = self.folder.path
        if self.tracker:
            self.tracker.log_generator(f"{run.name}-generator", lambda folder: write_folder(load_run(run), folder))

    def sync(self) -> None:
        """Make the journals durable, before a checkpoint that relies on them is published."""
        for journal in (self.audit, self.tracker):
            if journal:
                journal.sync()

    def close(self, *, failed: bool) -> None:
        """Close everything but the bar. Nothing is lost without it."""
        self.sheets.close()
        self.bad_samples.close()
        if self.audit:
            self.audit.close()
        if self.tracker:
            self.tracker.close(failed=failed)
