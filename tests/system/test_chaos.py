"""From outside: kills at random moments, between which ranks, workers and batch change; ``python -m tests.chaos --kills
50`` is the long form.
"""

from __future__ import annotations

import sys

import pytest

from tests.support.launching import run

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("flags", ["--kills 4 --seed 7225", "--kills 2 --seed 36 --ranks 2 --recipe"])
def test_kills_lose_and_repeat_nothing(flags: str) -> None:
    """With a fixed number of ranks the weights at the end are those of an undisturbed run, bit by bit.

    With these seeds a rank and the launcher each die in the training and while a checkpoint is being written, and the
    launcher also during the start.
    """
    done = run(words=[sys.executable, "-m", "tests.chaos", *flags.split()], timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing twice" in done.stdout
