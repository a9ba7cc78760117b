"""What a training knows of the scores of its checkpoints, of which it keeps the best one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from math import isfinite
from typing import Any

from shards.common.errors import InputError
from trainer.config import Judge
from trainer.folder.journal import DAMAGED, read_journal, warn_once
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import JUDGES, Result, append_scores, best, best_of_each, of_existing, parse_result


class KnownScores:
    """The scores of the checkpoints in ``folder`` that exist: those in ``scores.jsonl``, which all commands read.

    If this file is damaged or lost, what was known of it is written into it again; at first, that is what ``metadata``
    of a checkpoint recorded. Otherwise the training would remove the best checkpoint, or keep one that no command calls
    the best. A score that somebody removes from a whole file is forgotten.
    """

    def __init__(self, folder: RunFolder, metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self._results = list[Result]()
        with suppress(*DAMAGED):  # of another version
            self._results = [parse_result(row) for row in metadata.get("scores", ())]

    def append(self, results: Iterable[Result]) -> None:
        """Append ``results`` to the file; raises ``InputError`` if it cannot be written."""
        new = list(results)
        self.read()  # first: nobody sees of a new file that it lacks the lines of one that was lost
        append_scores(self._folder.scores, new)
        self._know([*self._results, *new])

    def read(self) -> list[Result]:
        """All results, also those that another process has appended to the file."""
        path, problems = self._folder.scores, list[str]()
        try:
            found = list(read_journal(path, parse_result, problems.append, strict=True))
        except InputError as error:
            warn_once(str(error))
            return self._results
        for problem in problems:
            warn_once(problem)
        if path.exists() and not problems:
            self._know(found)
        else:
            self._know([*self._results, *found])
            self._restore(found)
        return self._results

    def record(self, by: Judge | None) -> dict[str, Any]:
        """The best score so far and those that it is compared with, JSON-ready, for the metadata of a checkpoint.

        Its own are not among them: it is written before they are known.
        """
        record: dict[str, Any] = {"best": None, "scores": [asdict(result) for result in self.read()]}
        if found := best(self._results, by):
            judge, result = found
            record["best"] = {"checkpoint": result.checkpoint, "judge": judge, "value": result.scores[judge]}
        return record

    def protected(self, by: Judge | None) -> set[str]:
        """Names of the checkpoints that are not to be removed, as of the last read; see :func:`best_of_each`."""
        return best_of_each(self._results, by)

    def _know(self, results: Iterable[Result]) -> None:
        with suppress(OSError):  # nobody knows which checkpoints exist, so what was known before stays
            self._results = of_existing(self._folder, _last_answers(results).values())

    def _restore(self, found: Iterable[Result]) -> None:
        """Append what is known and not ``found`` in the file, if possible."""
        there = _last_answers(found)
        if lost := [result for key, result in _last_answers(self._results).items() if key not in there]:
            with suppress(InputError):
                append_scores(self._folder.scores, lost)


def _last_answers(results: Iterable[Result]) -> dict[Hashable, Result]:
    """The finite scores of those ``results`` that have one that may judge. The last answer to a question about a
    checkpoint counts.
    """
    answers = dict[Hashable, Result]()
    for result in results:
        scores = {name: value for name, value in result.scores.items() if isfinite(value)}
        if judges := frozenset(scores.keys() & JUDGES):
            answers[result.question, result.checkpoint, result.digest, judges] = result.with_scores(scores)
    return answers
