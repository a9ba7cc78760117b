"""The command line of ``python -m shards`` in this process: a process of its own takes a second to start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.__main__ import main

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["shards", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as error:
            code = int(error.code or 0)
        return subprocess.CompletedProcess(sys.argv, code, *capsys.readouterr())

    return run
