"""How a command beside the trainer ends: well, or with one line that says what to put right."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from shards.common.errors import InputError
from shards.common.errors import require as require

USAGE_ERROR = 2


def conclude(command: Callable[[], None]) -> int:
    """Run ``command``; returns the exit code. What the user can put right is one line on standard error and code 2."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that somebody named
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130
    return 0


def check_free(paths: Sequence[Path]) -> None:
    """Raises ``InputError`` when one of ``paths`` exists; names it. For a command with --force and --out."""
    for path in paths:
        if path.exists():
            raise InputError(f"{path} exists and was kept. Give --force to replace it, or another --out.")
