"""The scores of a run's checkpoints, in ``scores.jsonl`` of its folder, and which checkpoint is the best."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from math import isfinite, nan
from pathlib import Path
from typing import Any, get_args

from shards.common.files import file_lock
from shards.common.names import printable
from trainer.config import Judge
from trainer.folder.journal import Journal, Warn, explain_errors, read_journal, warn_once
from trainer.folder.run_folder import RunFolder, digest

Curve = dict[int, float]
"""Values over real images seen, in order; not finite where the training was not."""
JUDGES: tuple[Judge, ...] = get_args(Judge)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The generator that is scored."""

    checkpoint: str  # name of the folder
    step: int
    position: int
    weights: str  # averaged or current
    batch_norm: str
    digest: str = ""  # of the checkpoint: a step may be trained again


@dataclass(frozen=True, kw_only=True)
class Result(Subject):
    """What one measure found of one checkpoint."""

    features: str
    resize: str
    samples: int  # generated images
    reals: int  # real images
    data: str  # digest of their data set
    network: str = ""  # what tells the network of the features from others of the same name
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def question(self) -> tuple[object, ...]:
        """What was asked of the checkpoint. Values of other questions are not comparable."""
        of_images = (self.weights, self.batch_norm, self.samples, self.reals, self.data)
        return (self.features, self.network, self.resize, *of_images)

    @property
    def key(self) -> Result:
        """This result without its scores: what was asked."""
        return self.with_scores({})

    def is_of(self, digest: str) -> bool:
        """Whether this may be of the checkpoint with this ``digest``. Earlier versions recorded none."""
        return "" in (digest, self.digest) or digest == self.digest

    def with_scores(self, scores: Mapping[str, float]) -> Result:
        """This result with other ``scores``."""
        return dataclasses.replace(self, scores=scores)


def read_scores(path: Path, warn: Warn = warn_once) -> list[Result]:
    """All results in ``path``, oldest first; see :func:`read_journal`."""
    return list(read_journal(path, parse_result, warn))


def parse_result(row: dict[str, Any]) -> Result:
    """The result of a row; raises ``TypeError`` or ``OverflowError`` if it is none, or has no scores."""
    result, kinds = Result(**row), {"int": int, "str": str}
    if not all(isinstance(getattr(result, each.name), kinds.get(str(each.type), dict)) for each in fields(result)):
        raise TypeError("a field has another type")
    if not result.scores or not all(isinstance(value, float | int) for value in result.scores.values()):
        raise TypeError("there are no scores, or one is no number")
    return result.with_scores({name: float(value) for name, value in result.scores.items()})


def append_scores(path: Path, results: Iterable[Result], outdated: Callable[[], bool] = lambda: False) -> bool:
    """Append ``results`` to ``path``, unless they are ``outdated``; returns whether it did.

    Nobody else changes the file meanwhile. A training that goes back at the same time either comes first, and the
    results are outdated, or it removes them.
    Raises ``InputError`` if the file cannot be written.
    """
    with explain_errors(path), file_lock(path, mode=0o666), closing(Journal(path)) as journal:
        if outdated():
            return False
        for result in results:
            journal.append(dataclasses.asdict(result))
        journal.sync()
    return True


def best(results: Iterable[Result], by: Judge | None = None) -> tuple[Judge, Result] | None:
    """The score that judges, and the result in which it is lowest. ``by`` judges, if any result has it.

    Otherwise the score judges that most checkpoints have, of several the most preferred one. See :func:`comparable`.
    """
    known = list(results)
    found = {judge: comparable(known, judge) for judge in JUDGES}
    names = [by] if by and found[by] else [judge for judge in JUDGES if found[judge]]
    if not names:
        return None
    judge = max(names, key=lambda name: len(found[name]))  # the first of equals
    return judge, min(found[judge], key=lambda result: result.scores[judge])


def best_of_each(results: Iterable[Result], by: Judge | None = None) -> set[str]:
    """The names of the checkpoints in which the score that judges is lowest, one for each question that it answers.

    After a change of the numbers of images, the former best checkpoint cannot be compared with the new ones.
    """
    known = list(results)
    if not (found := best(known, by)):
        return set()
    judge, _ = found
    groups = _by_question(known, judge)
    return {min(group, key=lambda result: result.scores[judge]).checkpoint for group in groups}


def find_best(
    folder: RunFolder, results: Iterable[Result], by: Judge | None, warn: Warn = warn_once
) -> tuple[Judge, Result] | None:
    """:func:`best` of the ``results`` :func:`of_existing` checkpoints. Warns and returns None if they cannot be
    listed.
    """
    try:
        return best(of_existing(folder, results), by)
    except OSError as error:
        warn(f"{folder.checkpoints} cannot be read ({error.strerror}), so the best checkpoint is not known.")
        return None


def of_existing(folder: RunFolder, results: Iterable[Result]) -> list[Result]:
    """The ``results`` of the checkpoints in ``folder``. Those of a step that was trained again do not count: their
    digest is another one. Raises ``OSError`` if the checkpoints cannot be listed.
    """
    known, digests = list(results), dict[str, str]()
    with suppress(FileNotFoundError, NotADirectoryError):  # before the first checkpoint
        digests = {path.name: "" for path in folder.checkpoints.iterdir()}
    for name in digests.keys() & {result.checkpoint for result in known}:
        with suppress(OSError):  # it counts as unchanged
            digests[name] = digest(folder.checkpoints / name)
    return [result for result in known if result.checkpoint in digests and result.is_of(digests[result.checkpoint])]


def comparable(results: Iterable[Result], name: str) -> list[Result]:
    """The results whose score ``name`` is finite and answers one question, the last one of each checkpoint.

    A value depends on the numbers of images and on the real ones. Of several questions, the one counts that was asked
    of most checkpoints, then the one with most samples: a single evaluation by hand does not replace those of a run.
    """
    return max(_by_question(results, name), key=lambda group: (len(group), group[0].samples), default=[])


def _by_question(results: Iterable[Result], name: str) -> list[list[Result]]:
    """The results whose score ``name`` is finite, for each question the last one of each checkpoint."""
    groups: dict[tuple[object, ...], dict[str, Result]] = {}
    for result in results:
        if isfinite(result.scores.get(name, nan)):
            groups.setdefault(result.question, {})[result.checkpoint] = result
    return [list(group.values()) for group in groups.values()]


def newest(results: Sequence[Result], data: str | None) -> tuple[str, dict[str, float]] | None:
    """The newest scored checkpoint and its scores against the real images with the digest ``data``, if there are any.
    Of several values, the one counts that is :func:`comparable` with those of other checkpoints, else the last one.
    """
    own = [result for result in results if result.data == data] or results
    own = [result for result in own if any(map(isfinite, result.scores.values()))]
    if not own:
        return None
    last, found = max(own, key=lambda result: result.position), curves(own)
    scores = {name: value for each in own if each.position == last.position for name, value in each.scores.items()}
    scores |= {name: curve[last.position] for name, curve in found.items() if last.position in curve}
    return last.checkpoint, {name: value for name, value in scores.items() if isfinite(value)}


def lacks_scores(results: Iterable[Result], step: int, digest: str, features: Iterable[str]) -> bool:
    """Whether the checkpoint of ``step`` with this ``digest`` has no scores in some of ``features``."""
    return not set(features) <= {each.features for each in results if each.step == step and each.is_of(digest)}


def curves(results: Sequence[Result]) -> dict[str, Curve]:
    """Each score over images seen, see :func:`comparable`."""
    names = dict.fromkeys(name for result in results for name in result.scores)
    found = {name: {result.position: result.scores[name] for result in comparable(results, name)} for name in names}
    return {name: dict(sorted(curve.items())) for name, curve in found.items() if curve}


def as_table(results: Sequence[Result], classes: Sequence[str] = ()) -> str:
    """The results as text: a line for each score, a column for each checkpoint. Scores of one of the ``classes`` have
    its name beside its number.
    """
    checkpoints = list(dict.fromkeys(result.checkpoint for result in results))
    values = {(name, result.checkpoint): value for result in results for name, value in result.scores.items()}
    names = list(dict.fromkeys(name for name, _ in values))
    shown = {name: _with_class(name, classes) for name in names}
    width = max(map(len, shown.values()))
    lines = [" ".join([" " * width, *(f"{name:>14}" for name in checkpoints)])]
    for name in names:
        cells = (values.get((name, checkpoint)) for checkpoint in checkpoints)
        texts = ("-" if value is None else f"{value:.4g}" for value in cells)
        lines.append(" ".join([f"{shown[name]:{width}}", *(f"{text:>14}" for text in texts)]))
    return "\n".join(lines)


def _with_class(name: str, classes: Sequence[str]) -> str:
    number = re.fullmatch(r"(?:class|agreement)-(\d+)", name)
    title = classes[int(number[1])] if number and int(number[1]) < len(classes) else ""
    return f"{name} {printable(title)}" if number and title not in ("", number[1]) else name


def format_scores(scores: Mapping[str, float]) -> str:
    """``scores`` on one line."""
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
