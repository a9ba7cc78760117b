"""Notices when a training goes wrong, from figures that are equal on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

ZERO_LOSS = 1e-3  # loss of the discriminator below which it has nothing left to learn from the generator
ZERO_STEPS = 1000  # for so many steps
REACHED, FALLEN = 0.5, 0.25  # shares of the data's diversity: once above the first, now below the second
WORSE = 2.0  # times the best score
EVALUATIONS = 3  # in a row that are so much worse


class Problem(NamedTuple):
    """Something that went wrong, in words, and the step since which it may have been so."""

    text: str
    since: int


@dataclass
class Health:
    """Names each kind of problem once."""

    judges: tuple[str, ...]  # scores that tell which evaluation is better, the preferred one first
    _zero_since: int | None = None
    _diversity: float = 0.0  # the largest so far, as a share of the data's
    _diverse_at: int = 0  # step of the last evaluation whose images were not alike
    _judge: str | None = None  # the score that told last
    _first: float = 0.0  # its values
    _best: float = 0.0
    _good_at: int = 0  # step of the last evaluation that was not far worse than the best
    _worse: int = 0
    _named: set[str] = field(default_factory=set)

    def replay(
        self, losses: Mapping[int, float], evaluations: Mapping[int, Mapping[str, float]]
    ) -> list[tuple[int, Problem]]:
        """Check the losses of D and the scores of earlier steps. Returns the problems, each with its step."""
        found = []
        for step in sorted({*losses, *evaluations}):
            problems = self.check_losses(step, {"loss/d": losses[step]}) if step in losses else []
            problems += self.check_scores(step, evaluations[step]) if step in evaluations else []
            found += [(step, problem) for problem in problems]
        return found

    def check_losses(self, step: int, figures: Mapping[str, float]) -> list[Problem]:
        """Problems that the losses of ``step`` show for the first time."""
        if figures["loss/d"] > ZERO_LOSS:
            self._zero_since = None
        elif self._zero_since is None:
            self._zero_since = step
        elif step - self._zero_since >= ZERO_STEPS:
            text = f"the discriminator's loss has been 0 for {step - self._zero_since:,} steps"
            return self._name("loss", text, self._zero_since)
        return []

    def check_scores(self, step: int, scores: Mapping[str, float]) -> list[Problem]:
        """Problems that the ``scores`` of ``step`` show for the first time."""
        return [*self._check_diversity(step, scores), *self._check_judge(step, scores)]

    def _check_diversity(self, step: int, scores: Mapping[str, float]) -> list[Problem]:
        if not {"ms-ssim", "ms-ssim-real"} <= scores.keys():
            return []
        share = (1 - scores["ms-ssim"]) / max(1 - scores["ms-ssim-real"], 1e-6)
        self._diversity = max(self._diversity, share)
        if self._diversity >= REACHED and share < FALLEN:
            before = f"{share:.0%} of the data's diversity, {self._diversity:.0%} before"
            return self._name("diversity", f"the generated images have become alike: {before}", self._diverse_at + 1)
        self._diverse_at = step
        return []

    def _check_judge(self, step: int, scores: Mapping[str, float]) -> list[Problem]:
        judge = next((name for name in self.judges if name in scores), None)
        if judge is None:
            return []
        value = scores[judge]
        if judge != self._judge:  # values of two scores do not compare
            self._judge, self._first, self._best, self._worse = judge, value, value, 0
        self._best = min(self._best, value)
        # An unbiased score may be 0 or less, so a factor alone would not do.
        limit = max(WORSE * self._best, self._best + 0.1 * abs(self._first))
        if value <= limit:
            self._worse, self._good_at = 0, step
            return []
        self._worse += 1
        if self._worse < EVALUATIONS:
            return []
        values = f"{value:.4g}, once {self._best:.4g}"
        text = f"{judge} has been far worse than its best for {self._worse} evaluations: {values}"
        return self._name("score", text, self._good_at + 1)

    def _name(self, kind: str, text: str, since: int) -> list[Problem]:
        new = kind not in self._named
        self._named.add(kind)
        return [Problem(text, since)] if new else []
