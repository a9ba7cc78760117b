"""The errors that all ranks raise together."""

from __future__ import annotations

from shards.common.errors import InputError


class SharedInputError(InputError):
    """An :class:`InputError` that every rank raises with the same message, so that only rank 0 prints it."""


class WentWrong(SharedInputError):
    """The training diverged or collapsed, which ``problem`` says; ``advice`` is for a run that ends because of it.

    It was well before the step ``since``.
    """

    def __init__(self, problem: str, advice: str, since: int) -> None:
        super().__init__(f"{problem} {advice}")
        self.problem, self.advice, self.since = problem, advice, since
