"""What several test modules share."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.processes import available_cores
from shards.sources.faces import Faces

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests share the cores, and threads that spin take them away

SHARDS = Path(__file__).parent / "shards"
NO_GPU = "no GPU here"
"""Why tests with the mark ``gpu`` are skipped. ``pytest -m gpu`` runs only those."""


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores, and at most four: a third of the time tests wait, for SLURM, servers and what they kill."""
    return min(4, available_cores() + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests that need more GPUs than there are, and sorts the others.

    Longest modules first: begun last, one would run on alone. A long one has a timeout of its own; those of the
    shards are short and come last.
    """
    for item in items:
        if mark := item.get_closest_marker("gpu"):
            _skip_without(mark.args[0] if mark.args else 1, item)
    patience: dict[Path, float] = defaultdict(float)
    for item in items:
        for mark in item.iter_markers("timeout"):
            patience[item.path] = max(patience[item.path], mark.args[0])
    items.sort(key=lambda item: (-patience[item.path], SHARDS in item.path.parents))


def _skip_without(gpus: int, item: pytest.Item) -> None:
    import torch

    if torch.cuda.device_count() < gpus:
        item.add_marker(pytest.mark.skip(reason=NO_GPU if gpus == 1 else f"{NO_GPU} for each of {gpus} ranks"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything a test may need is installed (SHARDGAN_NO_SKIPS=1, set by CI), a skipped test is a failure,
    unless it is a GPU that it lacks.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("SHARDGAN_NO_SKIPS") and reporter is not None:
        skipped = [str(report.longrepr) for report in reporter.stats.get("skipped", ())]
        if any(NO_GPU not in why for why in skipped):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def keep_arithmetic() -> Iterator[None]:
    """A training in this process flushes denormals to 0, without which hypothesis refuses to work, and sets the number
    of threads, on which the last digits of the next test depend.
    """
    threads = torch.get_num_threads() if (torch := sys.modules.get("torch")) else None
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
        if threads:
            torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MNIST, CelebA and bedroom images; tests that need it are skipped, by name, without it."""
    folder = os.environ.get("SHARDGAN_DATA")
    if not folder:
        pytest.skip("SHARDGAN_DATA is unset: no real images here")
    return Path(folder)


@pytest.fixture(scope="session")
def faces32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 200 drawn faces at 32x32."""
    folder = tmp_path_factory.mktemp("faces32")
    build(Faces(200), folder, Options(size=32, shard_samples=64))
    return folder
