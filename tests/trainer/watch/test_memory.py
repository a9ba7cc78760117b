from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
import torch

from trainer.watch.memory import memory

HOLD = "import sys; block = b'x' * (200 << 20); print(flush=True); sys.stdin.read()"


@pytest.mark.parametrize(("name", "counted"), [("shards.loading.worker", True), ("wandb-core", False)])
def test_workers_count_and_other_children_do_not(name: str, counted: bool) -> None:
    before = memory(torch.device("cpu"))
    words = [sys.executable, "-c", HOLD, name]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        grown = memory(torch.device("cpu"))["memory/host_gb"] - before["memory/host_gb"]
        child.communicate()
    assert (0.15 < grown < 0.4) if counted else (abs(grown) < 0.15)
    assert set(before) == {"memory/host_gb"}


def test_it_is_this_processs_memory_in_gib() -> None:
    resident = psutil.Process().memory_info().rss / 2**30
    assert memory(torch.device("cpu"))["memory/host_gb"] == pytest.approx(resident, rel=0.2)
