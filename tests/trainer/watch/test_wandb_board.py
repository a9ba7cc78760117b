"""How a tracker handles failures of wandb's process and server; runs in this process, with short timeouts."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
import wandb
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from tests.support.fake_wandb import KEY, serve
from tests.trainer.watch.test_tracker import inspect, open_tracker, row
from trainer.config import Config, Tracking
from trainer.folder.run_folder import RunFolder
from trainer.watch import board, wandb_board
from trainer.watch.tracker import Tracker
from trainer.watch.wandb_board import slurm_options
from trainer.watch.wandb_environment import use_writable_folders

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wandb
    from wandb.sdk import wandb_setup


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path) -> Iterator[None]:
    """Hide the user's W&B settings and key; restore the environment afterwards."""
    with patch.dict(os.environ, {"HOME": str(tmp_path)}):
        for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
            del os.environ[name]
        wandb.teardown()  # left by another module, with its settings
        yield
        wandb.teardown()


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True, log_with="wandb")
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "a-run")
    folder.samples.mkdir(parents=True)
    return folder


def close(tracker: Tracker) -> str:
    """Close the tracker; returns all warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracker.close(failed=False)
    return "\n".join(str(warning.message) for warning in caught if warning.category is UserWarning)


def wandb_leftovers() -> list[object]:
    """What would delay the end of this process: wandb's process, and the connection that its exit hook closes."""
    singleton = wandb_setup._singleton
    cores: list[object] = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    return cores + ([singleton._connection] if singleton and singleton._connection else [])


def segment(folder: RunFolder, names: str = "offline-run-*") -> dict[str, list[Any]]:
    """The records of the one segment of those ``names`` in the run folder."""
    (path,) = (folder.path / "wandb").glob(names)
    (records,) = inspect([path])
    return records


def test_a_rejected_run_is_kept_offline(accelerator: Accelerator, folder: RunFolder) -> None:
    with serve("rejects") as server, patch.dict(os.environ, {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}):
        tracker = open_tracker(accelerator, folder, mode="online")
        tracker.log(row(1))
        said = close(tracker)
    assert f"{server.url} does not accept the run (" in said and "wandb sync" in said
    assert [entry["item"]["images"] for entry in segment(folder)["history"]] == [128]
    assert (folder.path / "board-has").read_text() == "128\n"


@pytest.mark.parametrize(("variables", "expected"), [({}, 25.0), ({"WANDB_INIT_TIMEOUT": "90"}, 90.0)])
def test_a_slow_server_has_25_s_or_what_the_user_sets(
    accelerator: Accelerator, folder: RunFolder, variables: dict[str, str], expected: float
) -> None:
    with patch.dict(os.environ, variables), patch.object(wandb.Run, "define_metric", autospec=True) as method:
        assert close(open_tracker(accelerator, folder, mode="offline")) == ""
    assert method.call_args.args[0].settings.init_timeout == expected


def test_a_server_that_accepts_a_run_and_then_stalls_delays_nothing(
    accelerator: Accelerator, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_board, "FINISH_TIMEOUT", 3.0)
    monkeypatch.setattr(wandb_board, "STOP_TIMEOUT", 2.0)
    monkeypatch.setattr(board, "CLOSE_TIMEOUT", 60.0)
    with serve("stalls") as server, patch.dict(os.environ, {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}):
        tracker = open_tracker(accelerator, folder, mode="online")
        tracker.log(row(1))
        began = time.monotonic()
        said = close(tracker)
        assert time.monotonic() - began < 40
    assert (
        "is off for the rest of this run: Timed out finishing run. Send it later: wandb sync" in said
        and wandb_leftovers() == []
    )
    assert [entry["item"]["images"] for entry in segment(folder, "run-*")["history"]] == [
        128
    ]  # to be sent by `wandb sync`
    assert not (folder.path / "board-has").exists()


def test_a_start_that_fails_leaves_nothing_of_wandb(accelerator: Accelerator, folder: RunFolder) -> None:
    with patch.object(wandb.Run, "define_metric", side_effect=ConnectionResetError("http://me:secret@host/x is gone")):
        said = close(open_tracker(accelerator, folder, mode="offline"))
    assert "is off for the rest of this run: http://***@host/x is gone" in said and wandb_leftovers() == []


def test_a_password_in_the_servers_address_is_not_shown(accelerator: Accelerator, folder: RunFolder) -> None:
    with serve("rejects") as server:
        address = server.url.replace("//", "//me:secret@")
        with patch.dict(os.environ, {"WANDB_BASE_URL": address, "WANDB_API_KEY": KEY}):
            said = close(open_tracker(accelerator, folder, mode="online"))
    assert "***@127.0.0.1" in said and "secret" not in said and "does not accept the run" in said


def test_a_removed_file_is_skipped_with_a_warning(accelerator: Accelerator, folder: RunFolder) -> None:
    whole, pruned, absent = (folder.checkpoints / f"step-{step:09d}" for step in range(3))
    for path in (whole, pruned):
        path.mkdir(parents=True)
        (path / "checksums.json").write_text('{"a": "", "b": ""}')
        (path / "a").write_text("a")
    (whole / "b").write_text("b")
    tracker = open_tracker(accelerator, folder, mode="offline", artifacts=True)
    for path in (pruned, absent, whole):
        tracker.log_checkpoint(path, {})
    tracker.log_sheet("fake", folder.samples / "none.png", 128)
    tracker.log(row(1))
    said = close(tracker)
    for name in (pruned.name, absent.name, "none.png"):
        assert f"did not get {name}: it was removed" in said
    records = segment(folder)
    assert [entry["item"]["images"] for entry in records["history"]] == [128]
    (artifact,) = records["artifact"]
    assert [entry["path"] for entry in artifact["manifest"]["contents"]] == ["a", "b", "checksums.json"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {}),
        ({"SLURM_JOB_ID": "7"}, {"group": "slurm-7", "tags": ["slurm"]}),
        (
            {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_JOB_PARTITION": "gpu"},
            {"group": "slurm-5", "tags": ["slurm", "gpu"]},
        ),
        ({"SLURM_JOB_ID": "7", "WANDB_RUN_GROUP": "mine"}, {"tags": ["slurm"]}),
        ({"SLURM_JOB_ID": "7", "WANDB_TAGS": "a,b", "WANDB_RUN_GROUP": ""}, {"group": "slurm-7"}),
    ],
)
def test_group_and_tags_come_slurm_options(environment: dict[str, str], expected: dict[str, Any]) -> None:
    assert slurm_options(environment) == expected


NAMED = {
    "WANDB_RUN_ID": "mine", "WANDB_PROJECT": "theirs", "WANDB_NAME": "a name", "WANDB_ENTITY": "us",
    "WANDB_RUN_GROUP": "g", "WANDB_TAGS": "t,u", "WANDB_NOTES": "why", "WANDB_RESUME": "auto",
}  # fmt: skip


def log(accelerator: Accelerator, run: RunFolder, position: int = 0, **tracking: Any) -> None:
    """A session of one row, offline, that gives no warning."""
    assert log_with_warnings(accelerator, run, position, **tracking) == ""


def log_with_warnings(accelerator: Accelerator, run: RunFolder, position: int = 0, **tracking: Any) -> str:
    """A session of one row, offline; returns all warnings."""
    config = Config(out=run.path, tracking=Tracking(mode="offline", **tracking))
    tracker = Tracker(accelerator, run, config, {}, position)
    tracker.log(row(position // 128 + 1))
    said = close(tracker)
    wandb.teardown()
    return said


@pytest.mark.parametrize("sweep", [{}, {"WANDB_SWEEP_ID": "s"}])
def test_the_environment_precedes_the_defaults(
    accelerator: Accelerator, folder: RunFolder, tmp_path: Path, sweep: dict[str, str]
) -> None:
    elsewhere = RunFolder(tmp_path / "elsewhere")
    with patch.dict(os.environ, {**NAMED, **sweep, "SLURM_JOB_ID": "7", "WANDB_DIR": str(elsewhere.path)}):
        log(accelerator, folder)
    records = segment(elsewhere)
    run = records["run"][0]
    assert (run["run_id"], run["project"], run["display_name"], run["entity"]) == ("mine", "theirs", "a name", "us")
    assert (run["run_group"], run["tags"], run["notes"]) == ("g", ["t", "u"], "why")
    assert run.get("sweep_id", "") == sweep.get("WANDB_SWEEP_ID", "")
    assert [entry["item"]["images"] for entry in records["history"]] == [128]
    assert (folder.path / "wandb-id").read_text() == "mine" and not (folder.path / "wandb").exists()


def test_a_flag_precedes_the_environment_and_empty_variables_are_unset(
    accelerator: Accelerator, folder: RunFolder
) -> None:
    empty = dict.fromkeys([*NAMED, "WANDB_SWEEP_ID", "WANDB_DIR", "WANDB_MODE", "WANDB_API_KEY", "WANDB_CACHE_DIR"], "")
    with patch.dict(os.environ, {**empty, "WANDB_PROJECT": "theirs"}):
        log(accelerator, folder, project="a-flag")
    run = segment(folder)["run"][0]
    assert (run["project"], run["display_name"]) == ("a-flag", "a-run") and not run.get("notes")
    assert run["run_id"] == (folder.path / "wandb-id").read_text()


def test_a_resume_keeps_the_id_and_another_id_gets_every_row(accelerator: Accelerator, folder: RunFolder) -> None:
    """In a sweep wandb would give each start without WANDB_RUN_ID an id of its own."""
    starts = ({"WANDB_RUN_ID": "mine"}, {"WANDB_SWEEP_ID": "s"}, {"WANDB_RUN_ID": "other"})
    expected = [("mine", [128]), ("mine", [256]), ("other", [128, 256, 384])]
    for number, (variables, (name, _)) in enumerate(zip(starts, expected, strict=True)):
        with patch.dict(os.environ, variables):
            log(accelerator, folder, 128 * number)
        assert (folder.path / "wandb-id").read_text() == name
        (folder.path / "wandb").rename(folder.path / f"wandb-{number}")  # segments' names contain only seconds
    segments = inspect(sorted(folder.path.glob("wandb-*/offline-run-*")))
    got = [(part["run"][0]["run_id"], [entry["item"]["images"] for entry in part["history"]]) for part in segments]
    assert got == expected


@pytest.mark.parametrize("home", ["a file", None])
def test_without_a_writable_home_wandb_is_quiet_and_stays_in_the_run_folder(
    accelerator: Accelerator, folder: RunFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str], home: str | None
) -> None:
    (tmp_path / "a file").touch()
    before = {*tmp_path.iterdir()}
    with patch.dict(os.environ, {"HOME": str(tmp_path / home) if home else ""}):
        if home is None:
            del os.environ["HOME"]
        log(accelerator, folder)
        used = {name: os.environ[name] for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR")}
    assert capfd.readouterr() == ("", "")
    assert used == {name: f"{folder.path}/wandb/{name[6:-4].lower()}" for name in used}
    assert {*tmp_path.iterdir()} == before and len([*(folder.path / "wandb").glob("offline-run-*/*.wandb")]) == 1


def test_artifacts_need_no_home(folder: RunFolder) -> None:
    with patch.dict(os.environ), patch("pwd.getpwuid", side_effect=KeyError):
        del os.environ["HOME"]
        use_writable_folders(folder.path)
        assert wandb.env.get_data_dir() == f"{folder.path}/wandb/data"


def test_folders_that_the_user_names_are_kept(folder: RunFolder, tmp_path: Path) -> None:
    mine = {"HOME": "/proc/none", "WANDB_CACHE_DIR": str(tmp_path / "mine"), "XDG_DATA_HOME": str(tmp_path)}
    with patch.dict(os.environ, mine):
        assert use_writable_folders(folder.path) is None
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "mine") and "WANDB_DATA_DIR" not in os.environ
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").touch(0o400)
    use_writable_folders(folder.path)
    assert not [name for name in os.environ if name.startswith("WANDB_")]


def test_folders_that_the_user_names_in_vain_are_named(
    accelerator: Accelerator, folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    """wandb's process would print its log on the terminal."""
    names = [f"WANDB_{name}DIR" for name in ("CACHE_", "DATA_", "CONFIG_", "")]
    refused = ", ".join(f"{name}=/proc/mine" for name in names)
    with patch.dict(os.environ, dict.fromkeys(names, "/proc/mine")):
        said = log_with_warnings(accelerator, folder)
    assert said == f"Weights & Biases writes into {folder.path}: {refused} cannot be written."
    assert capfd.readouterr() == ("", "")
    assert len([*(folder.path / "wandb").glob("offline-run-*/*.wandb")]) == 1
