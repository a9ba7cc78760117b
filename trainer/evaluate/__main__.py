"""``python -m trainer.evaluate RUN``: the command line and the table."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from tyro.conf import Positional

from shards.common.errors import InputError
from shards.common.progress import Advance, progress_bar
from trainer.cli import conclude, parse_command
from trainer.config import MIN_SAMPLES, Judge
from trainer.evaluate.picture import draw_scores
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import Result, append_scores, as_table, find_best, format_scores, read_scores
from trainer.status.__main__ import read_state

FEATURES = ("lite0", "inception", "labels", "pixels")
PAUSE = 5.0  # seconds between two looks for new checkpoints
PROBE = 2**16  # bytes, more than the results of a checkpoint take


@dataclass(frozen=True)
class Evaluate:
    """Score the generator of a run against the images that it was trained on.

    The name of a score says what it compares: kd-lite0 is the kernel distance between features of EfficientNet-Lite0,
    swd-64 the sliced Wasserstein distance between patches at 64 pixels. docs/quality.md explains each of them. Results
    are kept in RUN/scores.jsonl and drawn in RUN/evaluation.png, and nothing is scored twice. Feature networks and the
    picture need an extra: uv sync --extra scores.

    Example: python -m trainer.evaluate runs/faces --features pixels
    """

    run: Positional[Path]
    """Run folder."""
    checkpoint: str = "newest"
    """newest, best, all, or the name of a checkpoint such as step-000000480."""
    features: str = "lite0,pixels"
    """Comma-separated: lite0, inception, labels (for labelled images), pixels."""
    samples: int = 10_000
    """Number of generated images, and of real ones. Compare only scores of equal numbers."""
    shards: str | None = None
    """Folder or URL of the real images; if not given, those that the run was trained on."""
    weights: Path | None = None
    """File with the weights of the FID network, for --features inception."""
    watch: bool = False
    """Score each checkpoint as soon as it is published, until the run has ended or is preempted."""
    json: bool = False
    """Print one JSON object per checkpoint and kind of features, a line each, instead of a table."""

    def __post_init__(self) -> None:
        if not self.names or not set(self.names) <= set(FEATURES):
            raise InputError(f"--features {self.features}: give one or more of {', '.join(FEATURES)}.")
        if self.samples < MIN_SAMPLES:
            raise InputError(f"--samples is {self.samples}; it must be at least {MIN_SAMPLES}.")
        if self.watch and self.checkpoint != "newest":
            raise InputError("--watch scores every checkpoint. Give it without --checkpoint.")
        if self.weights and "inception" not in self.names:
            raise InputError("--weights are those of --features inception. Add these features, or omit --weights.")

    @property
    def names(self) -> tuple[str, ...]:
        """The features asked for, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.features.split(",") if name.strip()))


def evaluate(options: Evaluate) -> None:
    """Scores the checkpoints and prints the results; raises ``InputError`` if something does not suit the run."""
    folder = RunFolder(options.run)
    if options.watch:
        wait_for_start(folder)
    config = folder.read_config()
    check_writable(folder)
    # Not at the top: torch takes seconds to import, which --help and a typo should not wait for.
    import torch

    from shards.loading.labels import UnusableLabels
    from trainer.data import open_feature_cache, open_images
    from trainer.evaluate.evaluation import Evaluator, check_reals, describe_subject, generated
    from trainer.evaluate.measures import create_measure
    from trainer.folder.checkpoint import checkpoints
    from trainer.folder.load_run import DamagedCheckpoint, LoadedRun, load_run

    device, cache = torch.device("cuda" if torch.cuda.is_available() else "cpu"), open_feature_cache(config.data)
    try:
        dataset = open_images(config.data, options.shards, labels=config.model.conditional)
    except UnusableLabels as error:
        raise InputError(f"The run is class-conditional, so real images need a class each. {error}") from error
    output, damaged = Output(options), set[Path]()

    @functools.cache
    def create_evaluator() -> Evaluator:  # after the first checks, because a classifier may have to be trained
        measures = [create_measure(name, device, dataset, cache, options.weights) for name in options.names]
        return Evaluator(measures, dataset, options.samples, device, cache)

    def score(run: LoadedRun) -> None:
        known = read_scores(folder.scores)
        dataset.take_classes(run.classes)
        output.classes = dataset.manifest.classes
        check_reals(dataset, run.shape, run.classes)
        averaged = bool(run.config.ema_images)
        subject = describe_subject(run.step, run.position, run.generator, averaged=averaged, digest=run.digest)
        evaluator = create_evaluator()
        questions = evaluator.questions(subject)
        output.announce([evaluator.describe_numbers(question) for question in questions])
        if {question.features for question in questions} == {old.features for old in known if old.key in questions}:
            print(f"{subject.checkpoint} is scored already.", file=sys.stderr)
        fakes = generated(run.generator.to(device), run.config.seed, dataset)
        results = evaluator.score(subject, fakes, known, functools.partial(show_progress, subject.checkpoint))
        try:
            new = [result for result in results if result not in known]
            kept = append_scores(folder.scores, new, run.is_replaced)  # first: the reader of a pipe may be gone
        finally:
            output.add(results)  # also if the file cannot be written
        if not kept:
            why = f"the training went back to before {subject.checkpoint} meanwhile"
            print(f"warning: {why}. Its scores are not kept.", file=sys.stderr)

    def score_one_of_several(checkpoint: Path) -> None:
        damaged.discard(checkpoint)
        try:
            run = load_run(options.run, checkpoint)
        except InputError as error:
            if not checkpoint.exists():
                return  # the training removed it, because newer ones exist
            if not isinstance(error, DamagedCheckpoint):
                raise
            damaged.add(checkpoint)
            print(f"warning: {error.problem} It is left out.", file=sys.stderr)
        else:
            score(run)

    with closing(dataset.reader), output:
        if options.watch:

            def score_and_show(path: Path) -> None:
                score_one_of_several(path)
                output.show_table()
                draw(folder, config.evaluate.by)

            if not watch(folder, score_and_show):
                load_run(options.run)  # says why there is no checkpoint
        elif options.checkpoint == "all" and (paths := checkpoints(folder.checkpoints)):
            for path in paths:
                score_one_of_several(path)
        else:
            chosen = None if options.checkpoint in ("newest", "all") else Path(options.checkpoint)
            score(load_run(options.run, chosen))
    if not options.watch:
        draw(folder, config.evaluate.by)
    if left := sorted(path.name for path in damaged if path.exists()):
        raise InputError(
            f"These checkpoints are damaged and were left out: {', '.join(left)}. A training cannot resume from them. "
            f"Delete them in {folder.checkpoints}."
        )


def check_writable(folder: RunFolder) -> None:
    """Raises ``InputError`` if the results could not be kept: they take long to compute."""
    folder.check_scores()
    try:
        with TemporaryFile(dir=folder.path) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"The scores could not be kept: {folder.path} cannot be written ({error.strerror}). Make room or correct "
            "the permissions, or evaluate a copy of the folder."
        ) from error


def wait_for_start(folder: RunFolder) -> None:
    """Waits until a training has written its config into ``folder``."""
    if not folder.is_started():
        print(f"Waiting for the run {folder.path} to start.", file=sys.stderr)
    while not folder.is_started():
        time.sleep(PAUSE)


def watch(folder: RunFolder, score: Callable[[Path], object]) -> bool:
    """Calls ``score`` with each checkpoint of ``folder``, and with each one that appears, until the run has ended.
    Returns whether there was any.
    """
    from trainer.folder.checkpoint import checkpoints

    done = set[tuple[object, ...]]()
    while True:
        running = read_state(folder.path).state in ("starting", "running")  # first, or the last one might be missed
        for path in checkpoints(folder.checkpoints):
            version = _version(path)
            if version and version not in done:
                score(path)
                done.add(version)
        if not running:
            return bool(done)
        time.sleep(PAUSE)


def _version(checkpoint: Path) -> tuple[object, ...] | None:
    """What tells ``checkpoint`` from one that a training that went back writes at its step, and a damaged one from a
    repaired one: when its files were written. None if the training removed it.
    """
    try:
        return checkpoint, *sorted((file.name, file.stat().st_mtime_ns) for file in checkpoint.iterdir())
    except FileNotFoundError:
        return None


@contextmanager
def show_progress(checkpoint: str, what: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar for a part of the work; see :data:`trainer.evaluate.evaluation.Progress`."""
    with progress_bar(total, 0, unit, f"{checkpoint}, {what}") as bar:
        yield bar.update


class Output:
    """Prints results: as JSON at once, or as one table at the end, also if an error is the end."""

    def __init__(self, options: Evaluate) -> None:
        self._as_json, self._several = options.json, options.checkpoint == "all"
        self.classes: Sequence[str] = ()  # names for the table
        self._numbers: list[str] = []
        self._results: list[Result] = []

    def announce(self, numbers: list[str]) -> None:
        """Say how many images are compared, once."""
        if numbers != self._numbers:
            print(*numbers, sep="\n", file=sys.stderr)
        self._numbers = numbers

    def add(self, results: Sequence[Result]) -> None:
        if self._as_json:
            for result in results:
                print(json.dumps(dataclasses.asdict(result)), flush=True)
            return
        self._results += results
        if self._several:
            scores = {name: value for result in results for name, value in result.scores.items()}
            print(f"{results[0].checkpoint}: {format_scores(scores)}", file=sys.stderr)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.show_table()

    def show_table(self) -> None:
        """Print the table of what was added since the last call."""
        if self._results:
            print(as_table(self._results, self.classes), *self._numbers, sep="\n", flush=True)
        self._results = []


def draw(folder: RunFolder, by: Judge | None) -> None:
    """Draws all scores of ``folder`` and prints the path of the picture, or why there is none."""
    results = read_scores(folder.scores)
    best = find_best(folder, results, by)
    try:
        draw_scores(results, best, folder.evaluation)
        print(folder.evaluation, file=sys.stderr)
    except InputError as error:
        print(f"note: {folder.evaluation} is not drawn. {error}", file=sys.stderr)
    except OSError as error:
        print(f"warning: {folder.evaluation} cannot be written ({error.strerror}).", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(conclude(lambda: evaluate(parse_command(Evaluate, "evaluate")), lower="--samples"))
