"""What the benchmarks race: the same work for all, and programs that run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines import Iteration, pytorch_example, tutorial
from benchmarks.flops import forward, iteration
from tests.launching import ROOT

FEATURES, BATCH = 8, 4


@pytest.mark.parametrize("baseline", [pytorch_example, tutorial])
def test_baselines_compute_what_their_authors_wrote_and_no_more(
    baseline: Callable[[int, torch.device], Iteration],
) -> None:
    """Which is ours and, in G's step, the gradients of D's weights, which nobody uses."""
    layers = forward(64, 3, 100, FEATURES, FEATURES)
    iterate = baseline(FEATURES, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        iterate(torch.zeros(BATCH, 3, 64, 64))
    unused = 2 * sum(layers["discriminator"].values())
    assert counter.get_total_flops() == BATCH * (iteration(layers) + unused)


def test_the_race_of_steps_reports_itself(tmp_path: Path) -> None:
    flags = ["--features", "4", "--batch-size", "4", "--rounds", "3", "--iterations", "1"]
    command = [sys.executable, "-m", "benchmarks.step", *flags, "--json", str(tmp_path / "out.json")]
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    facts = json.loads((tmp_path / "out.json").read_text())
    assert {len(seconds) for seconds in facts["seconds"].values()} == {3}
    assert all(sorted(facts["seconds"][name])[1] == median for name, median in facts["median"].items())
    parts = [share for name, share in facts["breakdown"].items() if not name.startswith("of which")]
    assert sum(parts) == pytest.approx(1) and min(parts) >= 0
    assert "of the example" in said and all(name in said for name in facts["median"])
