"""The sweep that is shipped, run by wandb's own agent. A script in the place of ``accelerate`` keeps what it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from launch.dashboard import SECTIONS
from tests.support.fake_wandb import KEY, serve
from tests.support.forks import python
from tests.support.launching import ROOT, SMALL, rows, status

SWEEP: dict[str, Any] = yaml.safe_load((ROOT / "launch" / "sweep.yaml").read_text())
AGENT = "from wandb import wandb_agent; wandb_agent.Agent.POLL_INTERVAL = 0.1; from wandb.cli.cli import cli; cli()"
"""``wandb``, whose agent asks the server more often than every five seconds."""
ACCELERATE = """#!/bin/sh
cd "$STARTED" && n=$(ls | wc -l) && mkdir "$n" && env -0 > "$n/env" && printf '%s\\0' "$@" > "$n/words"
"""


def read(path: Path) -> list[str]:
    return path.read_text().split("\0")[:-1]


def test_its_metric_and_its_rates_are_real() -> None:
    charted = {name for panels in SECTIONS.values() for metrics in panels.values() for name in metrics}
    assert SWEEP["metric"]["name"] in charted and SWEEP["method"] == "random"
    assert SWEEP["parameters"].keys() == {"optim.lr-g", "optim.lr-d"}
    assert all(0 < rate["min"] < rate["max"] < 1 for rate in SWEEP["parameters"].values())


def test_an_agent_gives_each_run_a_folder_which_it_resumes(faces32: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "accelerate").write_text(ACCELERATE)
    (tmp_path / "bin" / "accelerate").chmod(0o755)
    (tmp_path / "started").mkdir()
    chosen = [("run", "r1", 1e-05), ("run", "r2", 0.0003), ("resume", "r1", 1e-05)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "SLURM_"))}
    clean |= {"HOME": str(tmp_path), "WANDB_API_KEY": KEY, "STARTED": str(tmp_path / "started")}
    with serve("accepts") as server:
        server.sweep = yaml.safe_dump(SWEEP)
        server.commands = [
            {"type": kind, "run_id": name, "program": None,
             "args": {"optim.lr-g": {"value": rate}, "optim.lr-d": {"value": 2e-4}, "data.flip": {"value": True}}}
            for kind, name, rate in chosen
        ]  # fmt: skip
        environment = clean | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "WANDB_BASE_URL": server.url}
        agent = [sys.executable, "-c", AGENT, "agent", "me/a-project/s1"]
        ran = subprocess.run(agent, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        starts = [tmp_path / "started" / str(number) for number in range(3)]
        environments = [dict(entry.split("=", 1) for entry in read(start / "env")) for start in starts]
        small = [*SMALL, "--tracking.mode", "auto", "--data.workers", "0", "--data.shards", str(faces32)]
        for number, steps in ((0, "2"), (2, "4")):  # r1 and its resumption
            launcher, script, *words = read(starts[number] / "words")[3:]
            assert (launcher, script) == ("accelerate_config.yaml", "trainer/run.py")
            words = [word for word in words if not word.startswith("--epochs")] + [*small, "--steps", steps]
            done = python()(str(ROOT / script), *words, cwd=tmp_path, env=environments[number])
            assert done.returncode == 0 and "Weights & Biases" not in done.stderr, done.stderr
    assert [each["WANDB_RUN_ID"] for each in environments] == [name for _, name, _ in chosen]
    assert "--optim.lr-g=0.0003" in read(starts[1] / "words")
    run = tmp_path / "runs" / "sweep-s1" / "r1"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["optim.lr_g"], config["optim.lr_d"], config["data.flip"]) == (1e-05, 2e-4, True)
    assert (status(run)["state"], status(run)["step"], (run / "wandb-id").read_text()) == ("done", 4, "r1")
    assert [row["step"] for row in rows(run / "metrics.jsonl")] == [2, 4]
    asked = [(run["name"], run["sweep"], run["project"], run["entity"]) for run in server.runs if run["sweep"]]
    assert asked == [("r1", "s1", "a-project", "me")] * 2
