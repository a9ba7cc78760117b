"""The trainer as a user meets it: what it leaves behind, and one clear error for each kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from PIL import Image

from shards.format.manifest import read_manifest
from tests.shards.loading.test_labels import relabel
from tests.support.forks import python
from tests.support.launching import ROOT, SMALL, command, rows, run, start, status, wait_for_step
from tests.support.make import make_shards, reindex
from trainer.folder.background import Background
from trainer.folder.checkpoint import load
from trainer.presets import PRESETS
from trainer.run import main
from trainer.train.session import Session

CONDITIONAL = ("--model.conditional", "true")


def flags(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--steps", "4", "--data.workers", "0", *SMALL, *more]


@pytest.fixture(scope="module")
def finished(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    done = run(*flags(faces32, out), launcher=("--config_file", "accelerate_config.yaml"))
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_folder_holds_what_it_should(finished: Path) -> None:
    assert status(finished) == {"state": "done", "step": 4, "position": 32}
    assert [row["images"] for row in rows(finished / "metrics.jsonl")] == [16, 32]
    wanted = {"loss/d", "loss/g", "score/real", "score/fake_before", "score/fake_after", "gradient/d", "gradient/g",
              "penalty/r1", "penalty/r2", "speed/images_per_second", "speed/checkpoints", "speed/evaluation",
              "data/wait", "data/replaced", "step", "images", "epoch", "memory/host_gb"}  # fmt: skip
    assert set(rows(finished / "metrics.jsonl")[0]) == wanted
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model.features_g"] == 4 and config["batch_size"] == 8
    for name in ("real", "step-000000000", "step-000000004"):
        with Image.open(finished / "samples" / f"{name}.png") as sheet:
            assert sheet.size == (2 * 34 + 2, 2 * 34 + 2)
    assert [path.name for path in (finished / "checkpoints").iterdir()] == ["step-000000004"]


def test_a_run_goes_on_past_its_first_end(faces32: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    more = flags(faces32, tmp_path / "run", "--epochs", "1", "--cuda-graphs", "--tf32", "false")
    more[more.index("--steps") : more.index("--steps") + 2] = []
    done = run(*more, env={"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr
    assert "--cuda-graphs needs one GPU and has no effect here." in done.stderr
    assert f"Done: {tmp_path / 'run' / 'samples' / 'step-000000025.png'}." in done.stderr
    assert status(tmp_path / "run") == {"state": "done", "step": 25, "position": 200}


def test_k_discriminator_steps_consume_k_batches(faces32: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    done = run(*flags(faces32, tmp_path, "--d-steps", "3", "--loss", "minimax", "--data.audit", str(audit)))
    assert done.returncode == 0, done.stderr
    assert status(tmp_path)["position"] == 4 * 3 * 8
    assert [(row["position"], len(set(row["keys"]))) for row in rows(audit / "rank-0.jsonl")] == [
        (position, 24) for position in (0, 24, 48, 72)
    ]


def test_a_report_has_the_penalties_of_the_last_step_that_had_some(faces32: Path, tmp_path: Path) -> None:
    """--log-every 4 and --penalty.every 2 meet in no step. A process knows nothing of the steps before its start."""

    def train(name: str, log_every: int, *lengths: int) -> dict[int, float | None]:
        few = flags(faces32, tmp_path / name, "--model.norm-d", "none", "--penalty.r1", "1", "--penalty.every", "2")
        for steps in lengths:
            done = run(*few, "--steps", str(steps), "--log-every", str(log_every))
            assert done.returncode == 0, done.stderr
        return {row["step"]: row.get("penalty/r1") for row in rows(tmp_path / name / "metrics.jsonl")}

    each, few = train("each", 1, 3, 8), train("few", 4, 8)
    assert each[1] == each[2] != each[3] and each[4] is None and each[5] == each[6] != each[7] == each[8]
    assert few == {4: each[3], 8: each[7]} and None not in few.values()


def test_a_dry_run_prints_and_leaves_nothing(faces32: Path, tmp_path: Path) -> None:
    done = run(*flags(faces32, tmp_path / "run", "--dry-run"))
    assert done.returncode == 0 and not (tmp_path / "run").exists()
    for word in (
        "200 faces images",
        "parameters",
        "1 CPU rank",
        "float32",
        "4 steps",
        "MB a checkpoint",
        "MB a rank: weights",
    ):
        assert word in done.stderr
    assert "batch_size: 8" in done.stdout


def test_a_dry_run_says_what_will_not_serve(faces32: Path, tmp_path: Path) -> None:
    useless = ("--cuda-graphs", "--threads", "999", "--model.kind", "mlp", "--model.norm-d", "batch")
    done = run(*flags(faces32, tmp_path / "run", "--dry-run", *useless))
    assert done.returncode == 0, done.stderr
    assert "note     --model.norm-d has no effect on --model.kind mlp." in done.stderr
    assert "note     --cuda-graphs needs one GPU and has no effect here." in done.stderr
    assert "note     --threads 999 on " in done.stderr
    done = run(*flags(faces32, tmp_path / "run", "--dry-run", "--model.features-g", "100000"))
    assert done.returncode == 2 and done.stderr.startswith("error: The networks and Adam's state take ")


def test_a_dry_run_of_the_default_draws_nothing(tmp_path: Path) -> None:
    done = python()(str(ROOT / "trainer" / "run.py"), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert "8,192 faces images" in done.stderr and "1,800 steps from the start" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_closed_terminal_loses_no_step(faces32: Path, tmp_path: Path) -> None:
    """Nor does Ctrl-C that ends a `| tee` first: the run goes on without a reader, until a signal stops it."""
    few = [*flags(faces32, tmp_path, "--checkpoint.every", "1000000"), "--steps", "1000000", "--data.workers", "1"]
    process = start(*few)
    wait_for_step(tmp_path, 2, process)
    assert process.stdout
    process.stdout.close()
    wait_for_step(tmp_path, status(tmp_path)["step"] + 4, process)  # it reported every second step
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(120) == 0
    end = status(tmp_path)
    assert end["state"] == "preempted" and (tmp_path / f"checkpoints/step-{end['step']:09d}").is_dir()


def test_a_finished_run_whose_last_word_was_lost_says_done(faces32: Path, finished: Path, tmp_path: Path) -> None:
    """A kill between the last checkpoint and the status."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "status.json").write_text('{"state": "running", "step": 2, "position": 16}\n')
    assert run(*flags(faces32, tmp_path / "run")).returncode == 0
    assert status(tmp_path / "run") == {"state": "done", "step": 4, "position": 32}


def test_float64_trains_in_float64(faces32: Path, tmp_path: Path) -> None:
    assert run(*flags(faces32, tmp_path, "--dtype", "float64")).returncode == 0
    header = (tmp_path / "checkpoints/step-000000004/generator.safetensors").read_bytes()
    facts = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert facts["blocks.0.0.weight"]["dtype"] == "F64"


def test_the_half_life_of_the_average_follows_its_schedule(faces32: Path, tmp_path: Path) -> None:
    """After 96 images it is 4.8 of them, and at most 1 here: the average is nearly the generator."""
    far = {}
    for name, more in (("plain", ()), ("scheduled", ("--schedule.images", "8", "--schedule.ema-images", "1"))):
        assert run(*flags(faces32, tmp_path / name, "--steps", "12", *more)).returncode == 0
        tensors = load(tmp_path / name / "checkpoints" / "step-000000012")[0]
        average, generator = tensors["average"], tensors["generator"]
        far[name] = max(float((average[key] - generator[key]).abs().max()) for key in generator if "weight" in key)
    assert 0 < far["scheduled"] < far["plain"] / 10


def test_a_warning_at_the_end_does_not_print_into_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(warnings, "warn", lambda message, **_: events.append(message))
    parts = {field.name: Mock() for field in fields(Session) if field.init} | {"checkpoints": Background()}
    parts["outputs"].progress.close.side_effect = lambda: events.append("the bar is closed")
    parts["checkpoints"].submit(Mock(side_effect=OSError("disk full")))
    Session(**parts).close(failed=True)
    assert events == ["the bar is closed", "disk full"]


Fails = Callable[..., str]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs ``main`` in this process, on input that must be refused before anything starts; returns the one error."""

    def run_main(*wanted: str) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("sys.argv", ["trainer/run.py", *wanted])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err
        assert ended.value.code == 2 and said.count("error: ") == 1
        return said.partition("error: ")[2]

    return run_main


def test_no_shards_at_the_path(tmp_path: Path, fails: Fails) -> None:
    said = fails(*flags(tmp_path / "nowhere", tmp_path / "run"))
    assert "No shards at" in said and "python -m shards build" in said and not (tmp_path / "run").exists()


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    make_shards(tmp_path / "labelled", samples=50)
    return tmp_path / "labelled"


@pytest.fixture
def copied(faces32: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces32, tmp_path / "shards"))


def test_a_truncated_tar(copied: Path, tmp_path: Path, fails: Fails) -> None:
    tar = sorted(copied.glob("*.tar"))[1]
    with tar.open("rb+") as file:
        file.truncate(tar.stat().st_size - 512)
    said = fails(*flags(copied, tmp_path / "run"))
    assert tar.name in said and "the manifest says" in said


def test_a_manifest_that_does_not_match_its_tars(copied: Path, tmp_path: Path, fails: Fails) -> None:
    facts = json.loads((copied / "manifest.json").read_text())
    facts["shards"][0]["samples"] += 1
    facts["samples"] += 1
    (copied / "manifest.json").write_text(json.dumps(facts))
    assert "belong to different data sets" in fails(*flags(copied, tmp_path / "run"))


def test_an_index_that_is_not_the_manifests(copied: Path, tmp_path: Path, fails: Fails) -> None:
    rows = np.load(copied / "index.npy")
    np.save(copied / "index.npy", rows[::-1])
    assert "does not belong to this manifest" in fails(*flags(copied, tmp_path / "run"))


def test_images_of_a_size_without_networks(tmp_path: Path, fails: Fails) -> None:
    make_shards(tmp_path / "shards", size=48)
    assert "48 pixels wide; networks exist for 32, 64, 128, 256" in fails(*flags(tmp_path / "shards", tmp_path / "run"))


def test_a_data_set_smaller_than_a_batch(faces32: Path, tmp_path: Path, fails: Fails) -> None:
    said = fails(*flags(faces32, tmp_path / "run"), "--batch-size", "256")
    assert "200 samples, fewer than one batch of 256" in said


def test_a_batch_of_nothing(faces32: Path, tmp_path: Path, fails: Fails) -> None:
    assert "--batch-size is 0" in fails(*flags(faces32, tmp_path / "run"), "--batch-size", "0")


@pytest.mark.parametrize("words", [("cifar",), ("--learning-rate", "1")])
def test_an_unknown_preset_or_flag(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Unrecognized options" in done.stderr or "There is no preset" in done.stderr


def test_a_folder_of_another_config_says_which_fields_differ(faces32: Path, finished: Path, fails: Fails) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    said = fails(*flags(faces32, finished, "--seed", "7", "--loss", "minimax", "--log-every", "3"))
    assert "loss: relativistic -> minimax" in said and "seed: 0 -> 7" in said and "log_every" not in said
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_other_data_than_the_run_was_started_on(finished: Path, copied: Path, fails: Fails) -> None:
    facts = json.loads((copied / "manifest.json").read_text())
    facts["shards"].reverse()
    (copied / "manifest.json").write_text(json.dumps(facts))
    assert "is not the data set that the run" in fails(*flags(copied, finished, "--steps", "6"))


def test_classes_need_a_label_for_each_image(faces32: Path, tmp_path: Path, fails: Fails) -> None:
    said = fails(*flags(faces32, tmp_path / "run", *CONDITIONAL))
    assert said.startswith("--model.conditional needs a class for each image. shard-")
    assert "holds no labels" in said and "attributes in .json are none" in said and not (tmp_path / "run").exists()
    make_shards(tmp_path / "one", samples=1)
    said = fails(*flags(tmp_path / "one", tmp_path / "run", *CONDITIONAL))
    assert "are of one class. Train without --model.conditional." in said and not (tmp_path / "run").exists()
    relabel(tmp_path / "one", 0, b"5")
    reindex(tmp_path / "one", read_manifest(tmp_path / "one"))
    assert "are of one class." in fails(*flags(tmp_path / "one", tmp_path / "run", *CONDITIONAL))
    make_shards(tmp_path / "three", samples=3)
    reindex(tmp_path / "three", replace(read_manifest(tmp_path / "three"), classes=tuple("abcde")))
    said = fails(*flags(tmp_path / "three", tmp_path / "run", *CONDITIONAL))
    assert "three has no image of the classes d, e, which would never be trained." in said
    said = fails("--out", str(tmp_path / "run"), "--data.shards", "data/faces64", *CONDITIONAL)
    assert "--model.conditional needs " in said and not (tmp_path / "run").exists()


def test_a_run_keeps_its_classes(labelled: Path, tmp_path: Path, fails: Fails) -> None:
    """Its sheets have a row for each. Other names or labels are refused, though the images are the same."""
    out = tmp_path / "run"
    few = flags(labelled, out, "--samples.count", "20", *CONDITIONAL)
    done = run(*few)
    assert done.returncode == 0, done.stderr
    assert ", 10 classes\n" in done.stderr
    with Image.open(out / "samples" / "step-000000004.png") as sheet:
        assert sheet.height == 10 * 34 + 2 and 2 * 34 + 2 < sheet.width < 4 * 34
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    more = [*few, "--steps", "6"]
    assert "model.conditional: True -> False" in fails(*more, "--model.conditional", "false")
    relabel(labelled, 3, b"7")
    reindex(labelled, read_manifest(labelled))
    assert f"{labelled} has other labels than when the run in {out} was started" in fails(*more)
    relabel(labelled, 3, b"3")
    names = tuple("abcdefghij")
    reindex(labelled, replace(read_manifest(labelled), classes=names))
    assert f"has the classes {', '.join(names)}, but had 0, 1, 2" in fails(*more)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_folder_that_cannot_be_written(faces32: Path, tmp_path: Path, fails: Fails) -> None:
    (tmp_path / "file").write_text("")
    said = fails(*flags(faces32, tmp_path / "file" / "run"))
    assert "cannot be written" in said and str(tmp_path / "file") in said


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_whole(faces32: Path, tmp_path: Path) -> None:
    """A real full disk: a tmpfs with room for a few checkpoints, none of which is pruned."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        done = run(*flags(faces32, disk / "run"), "--checkpoint.every", "1", "--checkpoint.keep", "9",
                   "--model.no-coarse-d")  # fmt: skip
        said = done.stderr
        assert done.returncode == 2 and "Traceback" not in said and said.count("\nerror: ") == 1
        assert "could not be written" in said and "newest whole checkpoint is" in said and "Make room" in said
        left = sorted((disk / "run" / "checkpoints").iterdir())
        assert left and all((path / "checksums.json").exists() and path.name.startswith("step-") for path in left)
        assert status(disk / "run")["state"] == "failed"
    finally:
        subprocess.run(["umount", disk], check=True)


def test_help_teaches() -> None:
    done = subprocess.run(command("--help"), cwd=ROOT, capture_output=True, text=True, check=True)
    for preset in PRESETS:
        assert preset in done.stdout
