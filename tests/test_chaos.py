"""From outside: six kills at random moments; ``python -m tests.chaos --kills 50`` is the long form."""

from __future__ import annotations

import sys

import pytest

from tests.launching import run


@pytest.mark.timeout(600)
def test_six_kills_lose_and_repeat_nothing() -> None:
    done = run(words=[sys.executable, "-m", "tests.chaos", "--kills", "6", "--seed", "1"], timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing twice" in done.stdout
