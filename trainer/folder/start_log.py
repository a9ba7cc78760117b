"""Where, with what and by which command a run was started: ``environment.jsonl`` in its folder, a line a start."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.folder.journal import Journal, Warn, read_journal, warn_once


def record_start(path: Path, facts: Mapping[str, Any]) -> None:
    """Append the time and ``facts`` to ``path``; raises ``InputError`` if it cannot be written."""
    with closing(Journal(path)) as journal:
        journal.append({"time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", **facts})


def read_starts(path: Path, warn: Warn = warn_once) -> list[dict[str, Any]]:
    """All starts in ``path``, oldest first; see :func:`read_journal`."""
    return list(read_journal(path, dict, warn))


def summarise(start: Mapping[str, Any]) -> str:
    """One start on a line: ranks, devices, hosts, precision, torch and the code's version."""

    def words(name: str) -> str:
        value = start.get(name)
        return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)

    ranks, precision = words("ranks"), words("precision")
    commit = words("code.commit")[:10] + " with changes" * (start.get("code.dirty") is True)
    parts = [
        f"{ranks} rank{'s' * (ranks != '1')} on {words('devices')}" if ranks else "",
        f"at {words('hosts')}" if words("hosts") else "",
        precision if precision not in ("", "no") else "",
        f"torch {words('torch')}" if words("torch") else "",
        f"commit {commit}" if words("code.commit") else "",
    ]
    return ", ".join(filter(None, parts))
