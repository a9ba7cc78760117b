"""The error whose message is shown to the user without a traceback."""

from __future__ import annotations

from importlib.util import find_spec


class InputError(Exception):
    """A mistake that the user can fix. The message says what is wrong, where, and how to fix it."""


def require(extra: str, *modules: str) -> None:
    """Raise ``InputError`` if one of ``modules``, which the optional dependencies ``extra`` contain, is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InputError(f"This needs {' and '.join(missing)}, not installed here. Run: uv sync --extra {extra}")
