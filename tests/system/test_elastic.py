"""From outside: when a rank dies, the launcher starts the job again, and no sample is lost or repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import psutil

from tests.support.launching import SMALL, keys, start, status, wait_for_step

ON_CPU = {"ACCELERATE_USE_CPU": "true"}


def test_a_rank_that_dies_takes_the_job_down_and_the_launcher_brings_it_back(faces32: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(
        *SMALL, "--data.shards", str(faces32), "--out", str(out), "--steps", "200", "--checkpoint.every", "20",
        "--data.workers", "1", "--data.audit", str(out / "audit"), env=ON_CPU,
        launcher=("--multi_gpu", "--num_processes", "2", "--main_process_port", "0", "--max_restarts", "1"),
    )  # fmt: skip
    wait_for_step(out, 30, process)
    survivor, victim = sorted(psutil.Process(process.pid).children(), key=lambda child: child.environ()["RANK"])
    victim.kill()
    survivor.wait(15)  # it leaves the launcher five seconds to find who died first
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "another rank was lost" in said and "Traceback" not in said
    assert status(out) == {"state": "done", "step": 200, "position": 1600}
    assert all(count == 8 for count in Counter(keys(out)).values())
