"""Runs the jobs of a study, a few at a time, and keeps their results in ``results.jsonl`` of its folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.study.job import NEEDED, run_job
from benchmarks.study.plan import Plan, Variant, check_variants
from shards.common.errors import InputError
from shards.common.files import file_lock
from shards.common.progress import progress_bar
from shards.format.manifest import read_manifest
from trainer.evaluate.__main__ import Evaluate
from trainer.evaluate.measures import PIXEL_SAMPLES
from trainer.folder.checkpoint import checkpoint_name
from trainer.folder.journal import Journal
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import read_scores

RESULTS = "results.jsonl"
PATIENCE = 60.0  # seconds for runs that are asked to stop to save a checkpoint
POLL = 1.0  # seconds between two looks at the runs


@dataclass(frozen=True)
class Row:
    """What became of one run."""

    variant: str
    seed: int
    asked: dict[str, Any]
    """:meth:`Plan.describe`."""
    scores: tuple[dict[str, float], ...] = ()
    """By name, at each mark; empty if the run failed."""
    seconds: float = 0.0
    """Of training and scoring, the last time that it was started."""
    error: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.variant, self.seed


def read_rows(out: Path) -> list[Row]:
    """The newest result of each run of the study in the folder ``out``. A torn last line is skipped.

    Raises:
        InputError: another line is not a result.
    """
    path = out / RESULTS
    try:
        lines = path.read_text().split("\n")[:-1]
        rows = [Row(**{**fields, "scores": tuple(fields["scores"])}) for fields in map(json.loads, lines)]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{path} does not hold the results of a study ({error}). Move it away.") from error
    return list({row.key: row for row in rows}.values())


def run_study(plan: Plan, variants: tuple[Variant, ...], seeds: Sequence[int], jobs: int = 1) -> list[Row]:
    """Trains and scores each of ``variants`` with each of ``seeds``, ``jobs`` runs at a time.

    What ``plan.out`` holds already is not done again, and a run that was killed continues from its last checkpoint. A
    run that fails does not end the study. Returns the results of what was asked.

    Raises:
        InputError: the variants do not see equally many images, or the folder cannot be written.
    """
    check_variants(plan, variants)
    wanted = {(variant.name, seed): (variant, seed) for seed in seeds for variant in variants}
    asked = {key: _describe(plan, *job) for key, job in wanted.items()}
    for folder in ("runs", "logs", "grids"):
        (plan.out / folder).mkdir(parents=True, exist_ok=True)
    with file_lock(plan.out / ".lock", waiting=f"Waiting for another study in {plan.out}.\n"):
        _drop_torn_line(plan.out / RESULTS)
        done = {row.key for row in read_rows(plan.out) if row.error is None and row.asked == asked.get(row.key)}
        missing = [job for key, job in wanted.items() if key not in done]
        lengths = {key: plan.marks_of(variant)[-1] for key, (variant, _) in wanted.items()}
        total, before = sum(lengths.values()), sum(lengths[key] for key in done)
        with (
            closing(Journal(plan.out / RESULTS)) as journal,
            progress_bar(total, before) as bar,
            _Pool(plan, jobs).working(missing) as finished,
        ):
            for update in finished:
                if isinstance(update, int):
                    bar.update(update)
                    continue
                variant, seed, seconds, failed = update
                row = _collect(plan, variant, seed, seconds, asked[variant.name, seed], failed)
                journal.append(asdict(row))
                journal.sync()
                what = row.error or ", ".join(f"{name} {value:.4g}" for name, value in _first(row))
                bar.write(f"{variant.name}, seed {seed}: {seconds:.0f} s, {what}", file=bar.fp)
    return [row for row in read_study(plan, variants) if row.seed in seeds]


def read_study(plan: Plan, variants: Sequence[Variant]) -> list[Row]:
    """The results in ``plan.out`` of ``variants`` with any seeds, in that order; not those that another plan asked for.

    Raises:
        InputError: the file of results is damaged.
    """
    rows = sorted(read_rows(plan.out), key=lambda row: row.seed)
    pairs = [(variant, row) for variant in variants for row in rows if row.variant == variant.name]
    return [row for variant, row in pairs if row.asked == _describe(plan, variant, row.seed)]


def _describe(plan: Plan, variant: Variant, seed: int) -> dict[str, Any]:
    """:meth:`Plan.describe`, as it is read back from JSON."""
    described: dict[str, Any] = json.loads(json.dumps(plan.describe(variant, seed), default=str))
    return described


def _first(row: Row) -> list[tuple[str, float]]:
    return [pair for pair in row.scores[-1].items() if pair[0].startswith(("kd-", "kid", "swd"))][:3]


def _collect(plan: Plan, variant: Variant, seed: int, seconds: float, asked: dict[str, Any], failed: str | None) -> Row:
    """The result of a run that has ended, and its sheet of samples after ``variant.also`` images as the grid."""
    row, folder = Row(variant.name, seed, asked, seconds=round(seconds, 1)), plan.run_folder(variant, seed)
    if failed is not None:
        return replace(row, error=failed)
    by_mark: dict[int, dict[str, float]] = {}
    samples = dict.fromkeys(Evaluate(folder, features=plan.features).names, plan.samples)
    if "pixels" in samples:  # compares equally many generated and real images
        samples["pixels"] = min(plan.samples, PIXEL_SAMPLES, read_manifest(plan.shards).samples)
    for result in read_scores(RunFolder(folder).scores):
        if (result.samples, result.data) == (samples.get(result.features), asked["data"]):
            by_mark.setdefault(result.position, {}).update(result.scores)
    marks = plan.marks_of(variant)
    if not by_mark.keys() >= {*marks}:  # a variant that saw more images, or fewer, is not compared
        seen = f"{folder} was scored after {sorted(by_mark)} images, not {list(marks)}"
        return replace(row, error=f"{seen}. Give another --out.")
    if seed == 0:
        step = asked["steps"] * (variant.also or marks[-1]) // marks[-1]
        sheet = RunFolder(folder).samples / f"{checkpoint_name(step)}.png"
        shutil.copyfile(sheet, plan.out / "grids" / f"{variant.name}.png")
    return replace(row, scores=tuple(by_mark[mark] for mark in marks))


def _drop_torn_line(path: Path) -> None:
    if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


Job = tuple[Variant, int]


@dataclass
class _Running:
    """One job that has a process."""

    job: Job
    process: BaseProcess
    began: float
    position: int = 0


class _Pool:
    """Processes, each of which does one job."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        self._plan, self._jobs = plan, jobs
        self._running: list[_Running] = []
        # Forked from a process that has imported what a run needs; a spawned one would import it anew, for seconds.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(NEEDED)

    @contextmanager
    def working(self, jobs: Sequence[Job]) -> Iterator[Iterator[int | tuple[Variant, int, float, str | None]]]:
        """Starts ``jobs`` in order. Yields images that were trained on, and (variant, seed, seconds, error) of each job
        that ends. On exit no process is left.
        """
        try:
            yield self._work(list(jobs))
        finally:
            for one in self._running:
                one.process.terminate()  # the trainer saves a checkpoint and ends
            for one in self._running:
                one.process.join(PATIENCE)
                one.process.kill()

    def _work(self, waiting: list[Job]) -> Iterator[int | tuple[Variant, int, float, str | None]]:
        while waiting or self._running:
            while waiting and len(self._running) < self._jobs:
                self._start(waiting.pop(0))
            connection.wait([one.process.sentinel for one in self._running], POLL)
            for one in list(self._running):
                yield self._advance(one)
                if one.process.exitcode is not None:
                    one.process.join()
                    self._running.remove(one)
                    yield *one.job, time.monotonic() - one.began, self._explain(one)

    def _start(self, job: Job) -> None:
        self._plan.log(*job).unlink(missing_ok=True)
        process = self._context.Process(target=run_job, args=(self._plan, *job), daemon=True)
        process.start()
        self._running.append(_Running(job, process, time.monotonic()))

    def _advance(self, one: _Running) -> int:
        """Images that the run was trained on since the last look."""
        position, end, ended = one.position, self._plan.marks_of(one.job[0])[-1], one.process.exitcode is not None
        with suppress(OSError, ValueError, LookupError):  # not there yet
            position = json.loads(RunFolder(self._plan.run_folder(*one.job)).status.read_text())["position"]
        position = end if ended else min(position, end)  # of an older and longer run, which then fails
        new, one.position = max(0, position - one.position), max(position, one.position)
        return new

    def _explain(self, one: _Running) -> str | None:
        """Why a job has failed; None if it has not."""
        if one.process.exitcode == 0:
            return None
        lines = self._plan.log(*one.job).read_text(errors="replace").split("\n")
        said = [line for line in lines if line.startswith("error: ")] or [line for line in lines if line.strip()]
        return said[-1].removeprefix("error: ") if said else f"ended with exit code {one.process.exitcode}"
