from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from shards.common.errors import InputError
from trainer.config import Config, Data, Tracking
from trainer.folder.run_folder import RunFolder
from trainer.ranks.launch import Launch
from trainer.train.prepare import dry_run
from trainer.watch.board import Board
from trainer.watch.tracker import SENT, Tracker, check, code_version, create_resend_job


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home without W&B settings; the environment is restored afterwards."""
    folder = tmp_path / "home"
    folder.mkdir()
    with patch.dict(os.environ, {"HOME": str(folder)}):
        for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_", "NETRC"))]:
            del os.environ[name]
        yield folder


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    yield new_accelerator()
    AcceleratorState._reset_state(reset_partial_state=True)


def new_accelerator() -> Accelerator:
    return Accelerator(cpu=True, log_with="wandb")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "a-run")
    folder.path.mkdir()
    return folder


def open_tracker(accelerator: Accelerator, folder: RunFolder, **tracking: Any) -> Tracker:
    config = Config(out=folder.path, tracking=Tracking(project="a-project", **tracking))
    return Tracker(accelerator, folder, config, {"data.digest": "abc"}, 0)


def row(step: int) -> dict[str, float]:
    return {"step": step, "images": 128 * step, "loss/d": step / 4}


def journal(folder: RunFolder) -> list[dict[str, float]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def inspect(segments: list[Path]) -> list[dict[str, list[Any]]]:
    """The records of offline segments by type. Each takes a second to read, so all are read at once."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]
    readers = [subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE) for path in segments]
    results = []
    for reader in readers:
        records: dict[str, list[Any]] = {}
        for line in reader.communicate()[0].splitlines():
            record = json.loads(line)
            records.setdefault(record["type"], []).append(record.get(record["type"]))
        results.append(records)
    return results


@pytest.mark.usefixtures("accelerator")
def test_two_sessions_are_one_run(folder: RunFolder) -> None:
    sheet = folder.path / "x.png"
    Image.new("RGB", (8, 8)).save(sheet)
    identities: list[str] = []
    segments: list[Path] = []
    for session in range(2):
        accelerator = new_accelerator()
        tracker = open_tracker(accelerator, folder, mode="offline")
        for step in (2 * session, 2 * session + 1):
            tracker.log(row(step))
            assert journal(folder)[-1] == row(step)
        tracker.log_sheet("fake", sheet, 128 * step, "a caption")
        tracker.sync()
        tracker.close(failed=False)
        accelerator.end_training()
        identities.append((folder.path / "wandb-id").read_text())
        (segment,) = (folder.path / "wandb").glob("offline-run-*")
        assert segment.name.endswith(identities[0])
        segments.append(segment.rename(folder.path / f"segment-{session}"))  # their names contain only seconds
    assert identities[0] == identities[1]
    assert journal(folder) == [row(step) for step in range(4)]

    for session, records in enumerate(inspect(segments)):
        (run,) = records["run"]
        assert run["run_id"] == identities[0]
        assert (run["project"], run["display_name"]) == ("a-project", "a-run")
        assert run["config"]["update"]["model.z_dim"] == 100
        assert run["config"]["update"]["data.digest"] == "abc"
        assert [(metric["glob_name"], metric["step_metric"]) for metric in records["metric"]] == [("*", "images")]
        items = [entry["item"] for entry in records["history"]]
        rows = [row(2 * session), row(2 * session + 1)]
        assert [{name: item.get(name) for name in rows[0]} for item in items[:2]] == rows
        assert items[2]["images"] == rows[1]["images"]
        assert items[2]["samples/fake._type"] == "image-file"
        assert items[2]["samples/fake.caption"] == "a caption"
        assert any("samples/fake" in file["path"] for entry in records["files"] for file in entry["files"])


OFF = "Weights & Biases is off for the rest of this run"


def use(tracker: Tracker, folder: RunFolder) -> None:
    """Call what a run calls of a tracker."""
    tracker.log(row(1))
    tracker.log_sheet("fake", folder.path / "none.png", 128)
    tracker.log(row(2))
    tracker.close(failed=False)
    assert journal(folder) == [row(1), row(2)]


def test_settings_that_wandb_rejects_are_one_warning(accelerator: Accelerator, folder: RunFolder, home: Path) -> None:
    (home / ".netrc").write_text("machine api.wandb.ai login user password short\n")
    check(Tracking())
    tracker = open_tracker(accelerator, folder)
    tracker.log(row(1))
    with pytest.warns(UserWarning, match="is offline: its settings cannot be used .API key must have") as caught:
        tracker.close(failed=False)
    assert len(caught) == 1
    (records,) = inspect([*(folder.path / "wandb").glob("offline-run-*")])
    assert [entry["item"]["images"] for entry in records["history"]] == [128]


def test_only_the_first_rank_looks_for_wandbs_settings(faces32: Path, folder: RunFolder) -> None:
    config = Config(data=Data(shards=str(faces32)), out=folder.path, batch_size=8, dry_run=True)
    launch = Launch(rank=1, ranks=2, local_ranks=2, cpu=True, precision="no")
    with patch("trainer.watch.tracker.resolve_mode") as resolve:
        dry_run("faces", config, launch, folder)
        resolve.assert_not_called()
        dry_run("faces", config, replace(launch, rank=0), folder)
        resolve.assert_called_once_with("auto")


def test_a_wandb_that_does_not_start_is_a_warning(accelerator: Accelerator, folder: RunFolder) -> None:
    (folder.path / "wandb").touch()
    with pytest.warns(UserWarning, match=OFF) as caught:
        use(open_tracker(accelerator, folder, mode="offline"), folder)
    assert len(caught) == 1


def test_a_generator_that_cannot_be_exported_leaves_the_board_on(accelerator: Accelerator, folder: RunFolder) -> None:
    tracker = open_tracker(accelerator, folder, mode="offline", artifacts=True)

    def fail(_: Path) -> NoReturn:
        raise InputError("no weights")

    tracker.log_generator("a-run-generator", fail)
    tracker.log(row(1))
    with pytest.warns(UserWarning, match="has no generator of this run: its export failed .no weights") as caught:
        tracker.close(failed=False)
    assert len(caught) == 1
    (records,) = inspect([*(folder.path / "wandb").glob("offline-run-*")])
    assert [entry["item"]["images"] for entry in records["history"]] == [128] and "artifact" not in records


class Broken:
    """A run whose wandb-core process is killed after the start."""

    def define_metric(self, *_: object, **__: object) -> None:
        pass

    def log(self, *_: object, **__: object) -> NoReturn:
        raise ConnectionResetError("reset")

    finish = log


def test_a_wandb_that_breaks_is_one_warning(accelerator: Accelerator, folder: RunFolder) -> None:
    with patch("wandb.init", lambda **_: Broken()), pytest.warns(UserWarning, match=f"{OFF}: reset") as caught:
        use(open_tracker(accelerator, folder, mode="offline"), folder)
    assert len(caught) == 1


def test_a_wandb_that_breaks_at_the_end_is_a_warning(accelerator: Accelerator, folder: RunFolder) -> None:
    with patch("wandb.init", lambda **_: Broken()), pytest.warns(UserWarning, match=OFF):
        open_tracker(accelerator, folder, mode="offline").close(failed=False)


def test_disabled_leaves_the_journal_alone(accelerator: Accelerator, folder: RunFolder) -> None:
    tracker = open_tracker(accelerator, folder, mode="disabled")
    tracker.log(row(1))
    tracker.log_sheet("fake", folder.path / "none.png", 128)
    tracker.close(failed=False)
    assert journal(folder) == [row(1)]
    assert [path.name for path in folder.path.iterdir()] == ["metrics.jsonl"]
    (folder.path / SENT).write_text("256")
    folder.metrics.write_text("not read")
    with patch("trainer.watch.tracker.create_resend_job") as create:
        open_tracker(accelerator, folder, mode="disabled").close(failed=False)
    create.assert_not_called()
    assert (folder.path / SENT).read_text() == "0\n"  # what follows may be computed again


class Rows(Board):
    """A board that keeps rows."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def log(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)


def test_the_resend_job_reads_the_journal_as_long_as_it_was(folder: RunFolder) -> None:
    folder.metrics.write_text("x" * len(lines := "".join(json.dumps(row(step)) + "\n" for step in (1, 2, 3))))
    job = create_resend_job(folder, 128, 384)
    folder.metrics.write_text(lines + json.dumps(row(3)))  # the job does not read before it runs
    job(board := Rows())
    assert board.rows == [row(2), row(3)]


def test_tensorboard_keeps_each_row_once_over_a_restart(folder: RunFolder) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sheet = folder.path / "x.png"
    Image.new("RGB", (8, 8)).save(sheet)
    for first, position in ((1, 0), (2, 128)):  # killed after row 2, with a checkpoint of row 1
        if position:
            time.sleep(1.1)  # file names contain only seconds
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=folder.path)
        config = Config(out=folder.path, tracking=Tracking(board="tensorboard"))
        tracker = Tracker(accelerator, folder, config, {"data.digest": "abc"}, position)
        for step in (first, first + 1):
            tracker.log(row(step))
        tracker.log_sheet("fake", sheet, 128 * (first + 1), "a caption")
        tracker.close(failed=False)
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/d")] == [(128, 0.25), (256, 0.5), (384, 0.75)]
    assert events.Images("samples/fake")[-1].step == 384
    assert "data.digest: abc" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


def test_a_board_that_is_not_installed_is_an_error() -> None:
    with patch("trainer.watch.tracker.find_spec", lambda _: None):
        check(Tracking(board="tensorboard", mode="disabled"))
        with pytest.raises(InputError, match="needs the extra `tensorboard`"):
            check(Tracking(board="tensorboard"))


def test_tensorboard_takes_no_artifacts() -> None:
    with pytest.raises(InputError, match="TensorBoard stores no files"):
        Config(tracking=Tracking(board="tensorboard", artifacts=True))


@pytest.mark.parametrize("project", ["", "a/b", "x" * 129])
def test_a_project_that_wandb_would_refuse_is_refused_before_the_start(project: str) -> None:
    with pytest.raises(InputError, match=r"--tracking\.project"):
        check(Tracking(project=project, mode="offline"))


def test_the_code_version_is_a_commit_in_a_checkout_and_a_version_elsewhere(tmp_path: Path) -> None:
    assert re.fullmatch("[0-9a-f]{40}", str(code_version()["code.commit"]))
    assert list(code_version(tmp_path)) == ["code.version"]
    (tmp_path / ".git").touch()
    assert list(code_version(tmp_path)) == ["code.version"]
