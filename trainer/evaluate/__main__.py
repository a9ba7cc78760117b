"""``python -m trainer.evaluate RUN``: the command line and the table."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from shards.common.errors import InputError
from shards.common.progress import progress_bar
from trainer.cli import conclude, parse_command
from trainer.config import MIN_SAMPLES, Judge
from trainer.evaluate.picture import draw_scores
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import Result, append_scores, as_table, read_scores
from trainer.status.__main__ import read_status

FEATURES = ("lite0", "inception", "labels", "pixels")
PAUSE = 5.0  # seconds between two looks for new checkpoints


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

    @property
    def path(self) -> Path | None:
        """The checkpoint asked for, as :func:`trainer.folder.load_run.load_run` takes it."""
        return None if self.checkpoint == "newest" else Path(self.checkpoint)

    @property
    def names(self) -> tuple[str, ...]:
        """The features asked for, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.features.split(",") if name.strip()))


def evaluate(options: Evaluate) -> None:
    """Scores the checkpoints and prints the results; raises ``InputError`` if something does not suit the run."""
    # Not at the top: torch takes seconds to import, which --help and a typo should not wait for.
    import torch

    from trainer.data import open_feature_cache, open_images
    from trainer.evaluate.evaluation import Evaluator, check_reals, describe_subject, generated
    from trainer.evaluate.measures import create_measure
    from trainer.folder.checkpoint import checkpoints
    from trainer.folder.load_run import load_run

    folder = RunFolder(options.run)
    config = folder.read_config()
    device, cache = torch.device("cuda" if torch.cuda.is_available() else "cpu"), open_feature_cache(config.data)
    dataset = open_images(config.data, options.shards)
    with closing(dataset.reader):

        @functools.cache
        def create_evaluator() -> Evaluator:  # after the first checks, because a classifier may have to be trained
            measures = [create_measure(name, device, dataset, cache, options.weights) for name in options.names]
            return Evaluator(measures, dataset, options.samples, device, cache)

        def score(checkpoint: Path | None) -> list[Result]:
            run, known = load_run(options.run, checkpoint), read_scores(folder.scores)
            check_reals(dataset, run.shape)
            averaged = bool(run.config.ema_images)
            subject = describe_subject(run.step, run.position, run.generator, averaged=averaged, digest=run.digest)
            fakes = generated(run.generator.to(device), run.config.seed, run.config.model.z_dim)
            evaluator = create_evaluator()
            with progress_bar(evaluator.total(), 0) as bar:
                results = evaluator.score(subject, fakes, known, bar.update)
            append_scores(folder.scores, [result for result in results if result not in known])
            return results

        if options.watch:

            def score_and_show(path: Path) -> None:
                show(score(path), as_json=options.json)
                draw(folder, config.evaluate.by)

            watch(folder, score_and_show)
            return
        paths: Sequence[Path | None] = [options.path]
        if options.checkpoint == "all":
            paths = checkpoints(folder.checkpoints) or [None]  # of which load_run says that there is none
        show([result for path in paths for result in score(path)], as_json=options.json)
        draw(folder, config.evaluate.by)


def watch(folder: RunFolder, score: Callable[[Path], object]) -> None:
    """Calls ``score`` with each checkpoint of ``folder``, and with each one that appears, until the run has ended."""
    from trainer.folder.checkpoint import checkpoints, digest

    done: set[str] = set()  # by their content, because a training that went back writes a step again
    while True:
        running = read_status(folder.path).state in ("starting", "running")  # first, or the last one might be missed
        for path in checkpoints(folder.checkpoints):
            try:
                if (content := digest(path)) not in done:
                    score(path)
                    done.add(content)
            except (InputError, FileNotFoundError):
                if path.exists():
                    raise
                # else the training removed it, because newer ones exist
        if not running:
            return
        time.sleep(PAUSE)


def show(results: Sequence[Result], *, as_json: bool) -> None:
    """Prints ``results``."""
    if as_json:
        for result in results:
            print(json.dumps(dataclasses.asdict(result)), flush=True)
    elif results:
        print(as_table(results), flush=True)


def draw(folder: RunFolder, by: Judge | None) -> None:
    """Draws all scores of ``folder`` and prints the path of the picture, or why there is none."""
    try:
        draw_scores(read_scores(folder.scores), by, folder.evaluation)
        print(folder.evaluation, file=sys.stderr)
    except InputError as error:
        print(f"note: {folder.evaluation} is not drawn. {error}", file=sys.stderr)
    except OSError as error:
        print(f"warning: {folder.evaluation} cannot be written ({error.strerror}).", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(conclude(lambda: evaluate(parse_command(Evaluate, "evaluate"))))
