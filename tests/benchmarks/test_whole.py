"""A run that takes turns with its step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import psutil
import pytest

from benchmarks.gpu import read_run
from benchmarks.measure.turns import Turns, measure_run
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.sources.faces import Faces
from tests.support.cluster import until
from tests.support.launching import ROOT, run

TRAINER = """
import json, sys, time
from pathlib import Path
out, reports = Path(sys.argv[-1]), int(sys.argv[1])
out.mkdir()
row = {"speed/images_per_second": 100, "data/wait": 0.5, "speed/checkpoints": 0, "memory/host_gb": 1}
for report in range(reports):
    with (out / "metrics.jsonl").open("a") as file:
        print(json.dumps({"images": 10 * report, **row}), file=file)
    for _ in range(10):
        time.sleep(0.01)
        with (out / "work").open("a") as file:
            file.write(".")
(out / "status.json").write_text('{"state": "done"}')
"""
"""Ten images a tenth of a second, and a mark for each piece of work."""


def test_a_run_stands_still_while_its_step_has_a_turn(tmp_path: Path) -> None:
    out, worked = tmp_path / "run", []

    def alone() -> float:
        before = (out / "work").stat().st_size
        time.sleep(0.3)
        worked.append((out / "work").stat().st_size - before)
        return 50.0 * len(worked)

    turns = Turns(alone, every=0.3)
    found = measure_run([sys.executable, "-c", TRAINER, "12", str(out)], out, turns)
    assert found.turns == len(worked) >= 2 and max(worked) <= 1  # a stop takes a moment to arrive
    assert turns.stopped >= 0.3 * len(worked)
    assert found.alone == pytest.approx(len(worked) / sum(1 / (50 * n) for n in range(1, len(worked) + 1)))
    assert found.ratio == pytest.approx(found.images_per_second / found.alone)
    assert 0 < found.images_per_second <= 100, "never faster than it works"
    assert 0 < found.waiting <= 0.5 and found.saving == 0 and found.host_gb == 1


def test_a_run_that_is_too_short_or_fails_is_told(tmp_path: Path) -> None:
    out = tmp_path / "short"
    with pytest.raises(InputError, match="give more --steps"):
        measure_run([sys.executable, "-c", TRAINER, "2", str(out)], out, Turns(lambda: 1.0, every=60))
    found = measure_run(
        [sys.executable, "-c", TRAINER, "2", str(tmp_path / "gpu")], tmp_path / "gpu", Turns(lambda: 1.0, None)
    )
    assert found.turns == 2
    for code in (0, 3):
        words = f"import sys; print('no luck', file=sys.stderr); sys.exit({code})"
        with pytest.raises(InputError, match="no luck"):
            measure_run([sys.executable, "-c", words], tmp_path / "failed", Turns(lambda: 1.0, every=60))


BENCHMARK = ["benchmarks.run", "--features", "4", "--batch-size", "8", "--rounds", "1", "--threads", "1", "--steps"]
"""On a busy machine two threads of a process wait for each other at every layer."""


@pytest.fixture(scope="module")
def faces64(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces64") / "shards"
    build(Faces(32), folder, Options(size=64))
    return folder


def test_the_benchmark_reports_a_real_run(faces64: Path, tmp_path: Path) -> None:
    flags = ["60", "--turn", "0.01", "--shards", str(faces64), "--json", str(tmp_path / "out.json")]
    done = run(words=[sys.executable, "-m", *BENCHMARK, *flags])
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    (one,) = figures["runs"]
    assert one["turns"] >= 1 and figures["arguments"]["features"] == 4
    assert f"{one['ratio']:.3f}x" in done.stdout
    rows = {row.measurement: row.figure for row in read_run(tmp_path / "out.json")}
    assert rows["whole run, batch 8: relative to its step alone"] == f"{one['ratio']:.3f}x"


SPY = """
import json, sys
from benchmarks import run
from trainer.config import flatten
from trainer.presets import parse

def create(config, accelerator):
    print(json.dumps(flatten(config)))
    return lambda images: None

def measure_run(command, out, turns):
    words = command[command.index("trainer/run.py") + 1:]
    print(json.dumps(flatten(parse(words)[1])))
    raise run.InputError("enough")

run.create, run.measure_run = create, measure_run
sys.exit(run.cli.main(run.Arguments, run.benchmark, ""))
"""
"""The benchmark, which prints the config of the step alone and that of the run."""

OF_A_RUN = {"steps", "checkpoint.every", "samples.every", "log_every", "out"}


def test_the_step_alone_is_that_of_the_run(faces64: Path) -> None:
    """Networks, loss, penalties, batch, threads: all but the length of the run, and what it writes."""
    flags = ["10", "--shards", str(faces64), "--workers", "2"]
    done = run(words=[sys.executable, "-c", SPY, *BENCHMARK[1:], *flags])
    step, whole = map(json.loads, done.stdout.splitlines())
    assert {name for name, value in step.items() if value != whole[name]} == OF_A_RUN
    assert (step["model.features_g"], step["batch_size"], step["data.workers"], step["threads"]) == (4, 8, 2, 1)


def assert_gone(processes: list[psutil.Process]) -> None:
    left = psutil.wait_procs(processes, timeout=10)[1]
    assert all(one.status() == psutil.STATUS_ZOMBIE for one in left), "an orphan that nobody has waited for yet may be"


STUB = """
import sys
from benchmarks import run
script = sys.argv.pop(1)
run.train_command = lambda *_, **__: [sys.executable, "-c", script, "100000"]
sys.exit(run.cli.main(run.Arguments, run.benchmark, ""))
"""
"""The benchmark on a trainer that takes no time to start."""


@pytest.mark.parametrize(("signal", "trainer"), [(SIGINT, "stub"), (SIGTERM, "real")])
def test_nothing_is_left_of_a_run_that_stood_still_when_it_was_interrupted(
    signal: Signals, trainer: str, faces64: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    words = ["-m", BENCHMARK[0]] if trainer == "real" else ["-c", STUB, TRAINER]
    flags = [*BENCHMARK[1:], "2400", "--turn", "0.5", "--shards", str(faces64)]
    process = psutil.Popen([sys.executable, *words, *flags], cwd=ROOT, env=env, stderr=subprocess.PIPE)

    def still() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return any(launcher.status() == psutil.STATUS_STOPPED for launcher in process.children())

    try:
        until(still, 240, every=0.1)
        those = process.children(recursive=True)
        process.send_signal(signal)
        said = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 128 + signal and "Traceback" not in said
    assert_gone(those)
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from benchmarks.measure.trainer import paused, started
with started(["sleep", "600"], sys.stderr) as process:
    print("started", flush=True)
    if sys.argv[1] == "still":
        with paused(process):
            print("still", flush=True)
            time.sleep(600)
"""


@pytest.mark.parametrize("moment", ["started", "still"])
def test_nothing_is_left_of_a_command_whose_parent_was_killed(moment: str) -> None:
    """By a SIGKILL, after which no line of ours runs."""
    process = psutil.Popen([sys.executable, "-c", KILLED, moment], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert moment in iter(lambda: process.stdout.readline().strip(), "")

    those = process.children(recursive=True)
    assert "sleep" in {child.name() for child in those}
    process.kill()
    process.communicate()
    assert_gone(those)
