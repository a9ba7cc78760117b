"""Which code a run was trained by."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent


def code_version(checkout: Path = CHECKOUT) -> dict[str, str | bool]:
    """``code.commit`` and ``code.dirty`` of the git checkout that this runs from; of an installed package, or where git
    does not answer in 10 s, ``code.version``.
    """
    if (checkout / ".git").exists():
        try:
            dirty = bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))
            return {"code.commit": _git(checkout, "rev-parse", "HEAD"), "code.dirty": dirty}
        except (OSError, subprocess.SubprocessError):
            pass  # no git here, or a checkout of another user's, which git refuses to read
    try:
        return {"code.version": version("shardgan")}
    except PackageNotFoundError:
        return {"code.version": "unknown"}


def _git(checkout: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(checkout), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
