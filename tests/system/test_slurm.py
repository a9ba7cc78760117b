"""From outside, on a real SLURM cluster: whatever befalls a job, the run goes on at the next sample."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.building.build import build
from shards.building.recipe import Options
from shards.sources.faces import Faces
from tests.shards.building.test_build import contents
from tests.support.cluster import MISSING, Cluster, free_ports, until
from tests.support.launching import ROOT, SMALL, keys, status

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"apt-get install slurm-wlm munge: no {', '.join(MISSING)} here"),
    pytest.mark.timeout(900),
]

SAMPLES = 200
LEGS = 240.0
"""Seconds that a start of two ranks may take on a busy machine."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


class Job:
    """``launch/train.sbatch`` on both nodes, one CPU rank on each."""

    def __init__(self, cluster: Cluster, shards: Path, out: Path, steps: int, **settings: str) -> None:
        self.cluster, self.out, self._said = cluster, out, out.with_suffix(".out")
        self.number = cluster(
            "sbatch", "--parsable", "--nodes=2", "--time=60", "--signal=B:USR1@120", f"--chdir={ROOT}",
            f"--output={self._said}", "launch/train.sbatch", "--data.shards", str(shards), "--out", str(out),
            "--steps", str(steps), "--checkpoint.every", "10", "--data.audit", str(out / "audit"), *SMALL,
            LAUNCH=f"{sys.executable} -m accelerate.commands.launch", MIN_SECONDS="0",
            **{"MAIN_PORT": str(free_ports(1)[0]), **settings},
        )  # fmt: skip

    @property
    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    @property
    def facts(self) -> dict[str, str]:
        return self.cluster.job(self.number)

    def wait_for(self, state: str, *, step: int = 0) -> int:
        """Until the run is in ``state`` and has done ``step`` steps; returns how many it has."""

        def there() -> bool:
            found = status(self.out) if (self.out / "status.json").exists() else {"state": "none"}
            return bool(found["state"] == state and found["step"] >= step)

        try:
            until(there, LEGS, every=0.05)
        except AssertionError as error:
            raise AssertionError(
                f"never {state} at step {step}:\n{self.said}\n{self.cluster.tell(self.number)}"
            ) from error
        return int(status(self.out)["step"])

    def wait_for_end(self, state: str) -> None:
        until(lambda: self.facts["JobState"] == state, LEGS)


def assert_trained_once_each(out: Path, steps: int) -> None:
    """``steps`` steps, none missing or twice, and in each epoch every sample once."""
    trained = keys(out)
    assert len(trained) == steps * 8
    assert all(
        len(set(epoch)) == len(epoch) for epoch in (trained[i : i + SAMPLES] for i in range(0, len(trained), SAMPLES))
    )


def test_a_run_goes_on_after_its_time_limit_and_after_a_requeue(
    cluster: Cluster, faces32: Path, tmp_path: Path
) -> None:
    job = Job(cluster, faces32, tmp_path / "run", steps=80)
    job.wait_for("running", step=10)
    # SLURM looks at the limits every 30 s. Stopped till then, however fast the machine, the run has steps left.
    cluster("scancel", "--signal=STOP", job.number)
    cluster("scontrol", "update", f"jobid={job.number}", "TimeLimit=2")
    until(lambda: "USR1" in job.said, 60)
    assert (job.out / "STOP").exists()
    cluster("scancel", "--signal=CONT", job.number)
    first = job.wait_for("preempted")
    cluster.start_now(job.number)
    assert "requeueing" in job.said and (job.out / "checkpoints" / f"step-{first:09d}").exists()

    job.wait_for("running", step=first + 6)
    cluster("scontrol", "requeue", job.number)
    second = job.wait_for("preempted", step=first)
    cluster.start_now(job.number)
    assert job.said.count("requeueing") == 1, "SLURM requeued it: the script must not do it too"
    job.wait_for("done")
    job.wait_for_end("COMPLETED")
    assert 10 <= first < second < 80 == status(job.out)["step"]
    assert job.facts["Restarts"] == "2"
    assert_trained_once_each(job.out, 80)
    for node in (0, 1):  # three starts of a rank each
        assert len(list((job.out / "logs").glob(f"{job.number}-node-{node}/*/attempt_0/0/stderr.log"))) == 3


def test_a_port_that_is_taken_is_named(cluster: Cluster, faces32: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        job = Job(cluster, faces32, tmp_path / "run", steps=10, MAIN_PORT=port)
        job.wait_for_end("FAILED")
    assert f"error: port {port} is taken on n1; give another as MAIN_PORT" in job.said


def test_a_run_goes_on_after_a_node_is_lost_and_ends_when_cancelled(
    cluster: Cluster, faces32: Path, tmp_path: Path
) -> None:
    job = Job(cluster, faces32, tmp_path / "run", steps=100_000, STAGE=str(tmp_path / "disk"))
    job.wait_for("running", step=14)
    cluster.pull_the_plug("n2")
    cluster.start_now(job.number)
    lost = status(job.out)["step"]

    job.wait_for("running", step=lost + 4)
    cluster("scancel", job.number)
    stopped = job.wait_for("preempted")
    job.wait_for_end("CANCELLED")
    assert (job.out / "checkpoints" / f"step-{stopped:09d}").exists()
    assert (
        job.facts["Restarts"] == "1"
        and job.facts["NodeList"] == "n1,spare"
        and "time is up" not in job.said
        and "staged" in job.said
    )
    assert_trained_once_each(job.out, stopped)


def test_a_data_set_is_built_by_two_nodes_though_a_part_was_killed(cluster: Cluster, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    for folder in ("launch", "shards"):
        (root / folder).symlink_to(ROOT / folder)

    def submit() -> tuple[str, str]:
        """The numbers of the array and of the last step."""
        array = cluster(
            "sbatch", "--parsable", "--array=1-2", f"--chdir={root}", "launch/build.sbatch", "faces", str(out),
            "--count", "200", "--shard-samples", "10", "--size", "32", PYTHON=sys.executable,
        )  # fmt: skip
        until(lambda: "completes" in log(f"build-{array}-1"), LEGS)
        found = re.search(r"job (\d+) completes", log(f"build-{array}-1"))
        assert found
        return array, found[1]

    def log(name: str) -> str:
        path = root / f"slurm-shardgan-{name}.out"
        return path.read_text() if path.exists() else ""

    def wait_for_end(number: str, state: str) -> None:
        until(lambda: cluster.job(number)["JobState"] == state, LEGS)

    array, last = submit()
    until(lambda: any(int(path.name[7:13]) % 2 for path in out.glob(".shard-*.npz")), LEGS, every=0.01)
    cluster("scancel", "--signal=KILL", f"{array}_2")
    wait_for_end(last, "FAILED")
    assert re.search(r"lacks \d+ of 20 shards, of part 2 of 2\. Build", log(f"join-{array}"))
    assert not (out / "manifest.json").exists()

    array, last = submit()
    wait_for_end(last, "COMPLETED")
    assert "digest" in log(f"join-{array}")
    nodes = {log(f"build-{array}-{part}").partition(" on ")[2].split()[0] for part in (1, 2)}
    assert len(nodes) == 2 and nodes <= {"n1", "n2", "spare"}  # another test may have lost n2
    build(Faces(200), tmp_path / "whole", Options(size=32, shard_samples=10))
    assert contents(out) == contents(tmp_path / "whole")
