"""The one exception that reaches a person as a sentence instead of a traceback."""

from __future__ import annotations


class InputError(Exception):
    """Something the user can put right. The message says what is wrong, where, and what to do about it."""
