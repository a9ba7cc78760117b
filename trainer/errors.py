"""The error that all ranks raise together."""

from __future__ import annotations

from shards.common.errors import InputError


class SharedInputError(InputError):
    """An :class:`InputError` that every rank raises with the same message, so that only rank 0 prints it."""
