from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launch.dashboard import AXIS, SECTIONS, SHEETS, main
from trainer.watch import board

pytestmark = pytest.mark.filterwarnings("ignore:.*Pydantic V1 style")
"""A warning of wandb_workspaces itself."""


def test_the_workspace_holds_every_section_over_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(tmp_path / "view.json"), "--project", "mine", "--entity", "me"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'view.json'}\n"
    view = json.loads((tmp_path / "view.json").read_text())
    assert (view["project"], view["entity"]) == ("mine", "me")
    section = view["spec"]["section"]
    assert section["settings"]["xAxis"] == AXIS == board.AXIS
    sections = {panels["name"]: panels["panels"] for panels in section["panelBankConfig"]["sections"]}
    assert list(sections) == ["Samples", *SECTIONS]
    assert [panel["config"]["mediaKeys"] for panel in sections["Samples"]] == [[name] for name in SHEETS]
    for name, panels in SECTIONS.items():
        assert [tuple(panel["config"]["metrics"]) for panel in sections[name]] == list(panels.values())
        assert {panel["config"]["xAxis"] for panel in sections[name]} == {AXIS}


def test_a_file_is_overwritten_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "view.json"
    path.write_text("mine")
    assert main(["--json", str(path)]) == 2
    assert "--force" in capsys.readouterr().err and path.read_text() == "mine"
    assert main(["--json", str(path), "--force"]) == 0
    assert json.loads(path.read_text())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["--json", str(tmp_path / "view.json")]) == 2
    assert capsys.readouterr().err == "error: This needs the extra `dashboard`: uv sync --extra dashboard.\n"


def test_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert main(["--entity", "me"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "--json FILE" in said


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(tmp_path / "none" / "view.json")]) == 2
    assert f"error: {tmp_path / 'none' / 'view.json'}: No such file" in capsys.readouterr().err
