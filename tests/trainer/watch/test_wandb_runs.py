"""Tests of whole training processes: what W&B gets of a killed run, and how a run handles a failing W&B."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.dashboard import SECTIONS
from tests.support.fake_wandb import KEY, serve
from tests.support.faulty import FaultyServer
from tests.support.launching import SMALL, rows, run, start, status, wait_for_step
from trainer.watch.board import AXIS

pytestmark = pytest.mark.timeout(600)
SECRETS = {"WANDB_API_KEY": KEY, "HF_TOKEN": "hf_" + "5ecre7" * 6, "AWS_SECRET_ACCESS_KEY": "a5ecre7" * 6}
"""Not real."""
PASSWORD = "hunter2hunter2"


def flags(shards: Path, out: Path, steps: int, *more: str) -> list[str]:
    small = [*SMALL, "--samples.every", "20", "--checkpoint.every", "20"]
    return ["--data.shards", str(shards), "--out", str(out), "--steps", str(steps), *small, *more]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the user's W&B settings and key."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SLURM_", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def read(segment: Path) -> dict[str, list[Any]]:
    """The records of an offline segment by type, up to where it is torn."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(segment)]
    records: dict[str, list[Any]] = {"run": [], "history": [], "artifact": []}
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        record = json.loads(line)
        records.setdefault(record["type"], []).append(record.get(record["type"]))
    return records


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a whole job as the kernel does, wandb's process first, which has a process group of its own."""
    family = psutil.Process(process.pid).children(recursive=True)
    for child in sorted(family, key=lambda child: child.name() != "wandb-core"):
        child.kill()
    process.kill()
    process.communicate(timeout=60)


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_killed_and_resumed_run_is_one_without_a_gap(faces32: Path, tmp_path: Path) -> None:
    arguments = flags(faces32, tmp_path / "run", 200, "--tracking.mode", "offline", "--tracking.artifacts")
    process = start(*arguments, env=SECRETS)
    while process.poll() is None and not any((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")):
        time.sleep(0.02)  # wandb starts beside the training, and later than it on a busy machine
    wait_for_step(tmp_path / "run", 90, process)
    kill_all(process)
    time.sleep(1.1)  # a segment's name holds the second
    arguments += ["--data.cache", str(tmp_path / "cache"), "--tracking.project", "shardgan"]
    with FaultyServer(faces32, login=f"me:{PASSWORD}") as server:
        arguments[1] = server.url.replace("://", f"://me:{PASSWORD}@")
        again = run(*arguments, env={**SECRETS, "SLURM_JOB_ID": "77", "SLURM_JOB_PARTITION": "gpu"})
    assert again.returncode == 0, again.stderr
    assert [name for name in (*SECRETS.values(), PASSWORD) if files_with(name, tmp_path / "run")] == []

    parts = [read(path) for path in sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))]
    assert len(parts) == 2  # of the first, what its process had written
    runs = [record for part in parts for record in part["run"]]
    assert {record["run_id"] for record in runs} == {(tmp_path / "run" / "wandb-id").read_text()}
    assert (runs[-1]["run_group"], runs[-1]["tags"]) == ("slurm-77", ["slurm", "gpu"])
    config = parts[1]["run"][0]["config"]["update"]
    assert {"data.digest", "code.commit", "code.dirty", "torch", "python", "devices", "hosts", "ranks"} <= set(config)
    assert [(m["glob_name"], m["step_metric"]) for m in parts[1]["metric"]] == [("*", "images")]

    items = [entry["item"] for part in parts for entry in part["history"]]
    sent = [entry["item"] for entry in parts[1]["history"]]
    places = [item["images"] for item in sent if "loss/d" in item]  # sheets are sent from a thread of their own
    assert places == sorted(places)
    reports = {item["images"]: item for item in items if "loss/d" in item}
    assert sorted(reports) == list(range(16, 1601, 16))
    journal = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["images"] for row in journal] == sorted(reports)
    assert all(set(row) <= set(reports[row["images"]]) for row in journal)
    groups = {"loss", "score", "penalty", "gradient", "speed", "data", "memory"}
    assert {name.partition("/")[0] for name in journal[0]} == groups | {"step", "images", "epoch"}
    sheets = {item["images"]: item["samples/fake.caption"] for item in items if "samples/fake.caption" in item}
    assert sorted(sheets) == list(range(0, 1601, 160))
    assert sheets[1600].startswith("Step 200: fixed latents 0 to 3 of seed 0, averaged weights")
    assert [item["images"] for item in sent if "samples/real.caption" in item] == [0]
    kept = [(record["type"], record["name"]) for part in parts for record in part["artifact"]]
    name = (tmp_path / "run" / "wandb-id").read_text()
    assert set(kept[:-1]) == {("checkpoint", f"checkpoint-{name}")} and kept[-1] == ("model", f"generator-{name}")
    made = {entry["path"]: entry for entry in parts[1]["artifact"][-1]["manifest"]["contents"]}
    assert set(made) == {"README.md", "config.json", "model.safetensors"}


def test_a_run_survives_a_kill_of_wandbs_process(faces32: Path, tmp_path: Path) -> None:
    process = start(*flags(faces32, tmp_path / "run", 200, "--tracking.mode", "offline"))
    wait_for_step(tmp_path / "run", 60, process)
    family = psutil.Process(process.pid).children(recursive=True)
    (core,) = [child for child in family if child.name() == "wandb-core"]
    core.kill()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert said.count("Weights & Biases is off for the rest of this run") == 1 and "Traceback" not in said
    assert status(tmp_path / "run")["state"] == "done"
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == list(range(2, 201, 2))


def test_settings_that_wandb_rejects_do_not_stop_a_run(faces32: Path, tmp_path: Path) -> None:
    arguments = flags(faces32, tmp_path / "run", 4, "--tracking.mode", "auto")
    done = run(*arguments, env={"WANDB_BASE_URL": "wandb.local"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: Weights & Biases is off") == 1 and "wandb:" not in done.stderr
    assert [row["step"] for row in rows(tmp_path / "run" / "metrics.jsonl")] == [2, 4]


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections and never answers."""
    held = []
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    for link in held:
        link.close()


def test_a_silent_server_neither_stops_nor_slows_a_run(faces32: Path, tmp_path: Path, silent: str) -> None:
    arguments = flags(faces32, tmp_path / "run", 200, "--tracking.mode", "online")
    process = start(*arguments, env={"WANDB_BASE_URL": silent, "WANDB_API_KEY": KEY, "WANDB_INIT_TIMEOUT": "3"})
    wait_for_step(tmp_path / "run", 200, process)
    began = time.monotonic()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert time.monotonic() - began < 90  # the end waits for the board for a minute at most
    journal = rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in journal] == list(range(2, 201, 2))
    assert f"{silent} does not accept the run (" in said
    assert "The run is kept on disk. Send it later: wandb sync " in said

    (segment,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    reports = [entry["item"]["images"] for entry in read(segment)["history"] if "loss/d" in entry["item"]]
    assert reports == [row["images"] for row in journal]  # including rows logged while it waited for the server
    assert not files_with(KEY, tmp_path / "run")


def test_an_online_run_sends_everything_including_what_the_dashboard_shows(faces32: Path, tmp_path: Path) -> None:
    arguments = flags(faces32, tmp_path / "run", 40, "--tracking.mode", "online", "--evaluate.samples", "100")
    with serve("accepts") as server:
        done = run(*arguments, env={"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
    assert done.returncode == 0 and "Weights & Biases" not in done.stderr, done.stderr
    journal = rows(tmp_path / "run" / "metrics.jsonl")
    figures = {"loss/d", "evaluation/swd"}
    assert [item["images"] for item in server.rows if figures & item.keys()] == [row["images"] for row in journal]
    assert len([item for item in server.rows if "samples/fake" in item]) == 3
    sent = {name for row in journal for name in row}
    others = {"amp/scale", "amp/skipped_d", "amp/skipped_g", "memory/device_gb", "penalty/r1", "penalty/r2"}
    charted = [name for panels in SECTIONS.values() for metrics in panels.values() for name in metrics]
    of_an_evaluation = {name for name in charted if name.startswith("evaluation/")}
    assert of_an_evaluation <= sent  # W&B charts the others by itself
    reported = {name for name in sent if not name.startswith("evaluation/")}
    assert sorted(charted) == sorted((reported | of_an_evaluation | others) - {"step", "epoch", AXIS})
    assert not files_with(KEY, tmp_path / "run")
