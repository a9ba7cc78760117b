"""Notices when a training goes wrong, from figures that are equal on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ZERO_LOSS = 1e-3  # loss of the discriminator below which it has nothing left to learn from the generator
ZERO_STEPS = 1000  # for so many steps
REACHED, FALLEN = 0.5, 0.25  # shares of the data's diversity: once above the first, now below the second
WORSE = 2.0  # times the best score
EVALUATIONS = 3  # in a row that are so much worse


@dataclass
class Health:
    """Names each kind of problem once."""

    judges: tuple[str, ...]  # scores that tell which evaluation is better, the preferred one first
    _zero_since: int | None = None
    _diversity: float = 0.0  # the largest so far, as a share of the data's
    _first: float | None = None
    _best: float | None = None
    _worse: int = 0
    _named: set[str] = field(default_factory=set)

    def check_losses(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Problems that the losses of ``step`` show for the first time."""
        if figures["loss/d"] > ZERO_LOSS:
            self._zero_since = None
        elif self._zero_since is None:
            self._zero_since = step
        elif step - self._zero_since >= ZERO_STEPS:
            return self._name("loss", f"the discriminator's loss has been 0 for {step - self._zero_since:,} steps")
        return []

    def check_scores(self, scores: Mapping[str, float]) -> list[str]:
        """Problems that the ``scores`` of an evaluation show for the first time."""
        return [*self._check_diversity(scores), *self._check_judge(scores)]

    def _check_diversity(self, scores: Mapping[str, float]) -> list[str]:
        if "ms-ssim" not in scores:
            return []
        share = (1 - scores["ms-ssim"]) / max(1 - scores["ms-ssim-real"], 1e-6)
        self._diversity = max(self._diversity, share)
        if self._diversity >= REACHED and share < FALLEN:
            before = f"{share:.0%} of the data's diversity, {self._diversity:.0%} before"
            return self._name("diversity", f"the generated images have become alike: {before}")
        return []

    def _check_judge(self, scores: Mapping[str, float]) -> list[str]:
        judge = next((name for name in self.judges if name in scores), None)
        if judge is None:
            return []
        value = scores[judge]
        if self._first is None or self._best is None:
            self._first = self._best = value
        self._best = min(self._best, value)
        # An unbiased score may be 0 or less, so a factor alone would not do.
        limit = max(WORSE * self._best, self._best + 0.1 * abs(self._first))
        self._worse = self._worse + 1 if value > limit else 0
        if self._worse >= EVALUATIONS:
            values = f"{value:.4g}, once {self._best:.4g}"
            text = f"{judge} has been far worse than its best for {self._worse} evaluations: {values}"
            return self._name("score", text)
        return []

    def _name(self, kind: str, problem: str) -> list[str]:
        new = kind not in self._named
        self._named.add(kind)
        return [problem] if new else []
