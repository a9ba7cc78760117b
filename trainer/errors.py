"""The errors that all ranks raise together."""

from __future__ import annotations

from shards.common.errors import InputError


class SharedInputError(InputError):
    """An :class:`InputError` that every rank raises with the same message, so that only rank 0 prints it."""


class WentWrong(SharedInputError):
    """The training diverged or collapsed after the newest checkpoints; an earlier one may be continued."""
