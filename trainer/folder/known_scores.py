"""What a training knows of the scores of its checkpoints, of which it keeps the best one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from math import isfinite, nan
from typing import Any

from trainer.config import Judge
from trainer.folder.journal import DAMAGED
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import JUDGES, Result, best, of_existing, parse_result, read_scores


class KnownScores:
    """The judging scores of the checkpoints in ``folder``, at first those that ``metadata`` of one of them recorded.

    What is known stays so while its checkpoint exists: a damaged line, or one read that fails, would otherwise remove
    the best checkpoint.
    """

    def __init__(self, folder: RunFolder, metadata: Mapping[str, Any]) -> None:
        self._folder = folder
        self._results = list[Result]()
        with suppress(*DAMAGED):  # of another version
            self._results = [parse_result(row) for row in metadata.get("scores", ())]

    def add(self, results: Iterable[Result]) -> None:
        """Know ``results`` too. The last one that answers a question about a checkpoint counts."""
        last = {
            (each.question, each.checkpoint, each.digest, *each.scores): each
            for each in [*self._results, *map(_judging, results)]
            if each.scores
        }
        with suppress(OSError):  # nobody knows which checkpoints exist, so those of before stay
            self._results = of_existing(self._folder, last.values())

    def read(self) -> list[Result]:
        """All results, also those that another process has appended to ``scores.jsonl``."""
        self.add(read_scores(self._folder.scores))
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


def _judging(result: Result) -> Result:
    """``result`` with the scores that may judge, which are few."""
    found: dict[str, float] = {name: result.scores[name] for name in JUDGES if isfinite(result.scores.get(name, nan))}
    return result.with_scores(found)
