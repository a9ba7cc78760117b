from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.launching import ROOT
from tests.trainer.report.make import BATCH, lines, make_run, metric, result
from tests.trainer.status.test_status import alive
from trainer.cli import conclude, parse_command
from trainer.folder.run_folder import RunFolder
from trainer.folder.start_log import record_start
from trainer.report.__main__ import Report, report
from trainer.report.page import make_page
from trainer.report.pictures import encode
from trainer.report.read import read_runs

EVIL = "<script>alert(1)<\"'&"
"""Part of every name and message below."""


class Page(HTMLParser):
    """The tags of a page, its texts without those of style and scripts, and the data of its charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self.text = ""
        self._open = ""
        self.feed(text)
        self.data: dict[str, Any] = json.loads(self.raw["script"][0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, _tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.raw:
            self.raw[self._open].append(data)
        else:
            self.text += data + "\n"

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def curve(self, part: str, title: str, line: int = 0) -> dict[str, Any]:
        return next(dict(chart["lines"][line]) for chart in self.data[part] if chart["title"] == title)


def page_of(*runs: Path) -> Page:
    return Page(make_page(read_runs(runs)))


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = conclude(lambda: report(parse_command(Report, "report", line.split())))
    return code, *capsys.readouterr()


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "faces", results=[result(20, {"kd-lite0": 3.0}), result(40, {"kd-lite0": 5.0})])
    assert run(str(folder), capsys) == (0, f"{folder}/report.html\n", "")
    text = (folder / "report.html").read_text()
    page = Page(text)
    for name, attributes in page.tags:
        for key in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#")), (name, key)
        assert not any(key.startswith("on") or key == "style" for key in attributes)
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttp|https?://(?!www\.w3\.org)", "".join(map("".join, page.raw.values()))
    )
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    for kind, content in (("style", page.raw["style"][0]), ("script", page.raw["script"][1])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in (policy or "")
    assert "data\n200 faces\n" in page.text and "seed\n0\n" in page.text
    assert "step 40 of 40 · 1,280 images · epoch 0.40 · best kd-lite0 3 at step 20" in page.text
    assert page.curve("scores", "kd-lite0") | {"label": ""} == {
        "label": "", "colour": 0, "best": 640, "last": "5", "x": [640, 1280], "y": [3.0, 5.0]}  # fmt: skip
    sheets = [image for image in page.of("img") if "data-x" in image]
    assert [image["data-x"] for image in sheets] == ["320", "640", "960", "1280"]
    assert ["hidden" in image for image in sheets] == [True, True, True, False]
    assert ["data-best" in image for image in sheets] == [False, True, False, False]


def test_the_environment_of_each_start_is_shown(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for host in ("node1", "node2", "node1"):
        record_start(
            folder / "environment.jsonl",
            {"step": 0, "ranks": 2, "hosts": [host, "node3"], "cuda": None, "code.dirty": False},
        )
    text = page_of(folder).text
    assert "hosts\nnode1, node3, then node2, node3\n" in text and "ranks\n2\n" in text and "starts\n3\n" in text
    assert "code.dirty\nfalse\n" in text and "cuda\n" not in text


def test_torch_is_not_imported(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    words = ["-X", "importtime", "-m", "trainer.report", str(folder)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"torch", "accelerate"}.isdisjoint(re.findall(r"(\w+)\n", done.stderr))
    assert (folder / "report.html").exists()


def make_evil_run(folder: Path) -> Path:
    """A run with markup in all of its texts."""
    closing = f"</script></title></style>{EVIL}<img src=x onerror=alert(2)>"
    made = make_run(folder / EVIL, caption=closing, state="failed", error=closing, warnings=[closing],
                    results=[result(20, {closing: 1.0, "swd": 2.0}, weights=closing)])  # fmt: skip
    with (made / "metrics.jsonl").open("a") as file:
        file.write(lines([metric(50, **{closing: 2.0, "never-finite": float("nan")})]))
    state = {"data": closing, closing: closing}
    next((made / "checkpoints").glob("*/state.json")).write_text(json.dumps(state))
    config = (made / "config.yaml").read_text().replace("data/faces64", json.dumps(closing))
    (made / "config.yaml").write_text(config)
    (made / "samples" / "step-000000099.png").write_text(closing)
    return made


def test_texts_from_files_are_never_markup(tmp_path: Path) -> None:
    page = page_of(make_evil_run(tmp_path), make_run(tmp_path / "other"))
    assert len(page.of("script")) == 2 and len(page.of("style")) == len(page.of("title")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert all((image["src"] or "").startswith("data:image/") for image in page.of("img"))
    assert page.text.count(EVIL) > 10
    assert {"alert(1)", "alert(2)"}.isdisjoint(page.raw["script"][1:]) and "</" not in page.raw["script"][0]


def test_names_that_are_no_text_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert run(f"{folder} --out {tmp_path}/page.html", capsys)[0] == 0
    assert "caf\\udce9" in (tmp_path / "page.html").read_text()


NO_RUN = "There is no run at @/nothing: no such folder. `accelerate launch trainer/run.py` makes one."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@/nothing", NO_RUN),
        ("@/nothing @/./nothing --out @/two.html", NO_RUN),
        ("@", "@ is not a run folder: it holds no status.json."),
        ("@/run/config.yaml", "@/run/config.yaml is a file. Name the folder of a run, such as runs/faces."),
        ("@/run", "@/run/report.html exists and is kept. Give --force to replace it, or another name."),
        ("@/run --out @/run/status.json --force", "--out is @/run/status.json; the name of a page must end in .html."),
        ("@/run --out s3://b/a.html",
         "s3://b/a.html is a URL, and only folders can be written to. Name a folder, and copy it there."),
        ("@/run --out @/run/STOP/a.html", "@/run/STOP/a.html cannot be written (File exists). Give another --out."),
        ("@/run --out @/folder.html --force", "@/folder.html cannot be written (Is a directory). Give another --out."),
        ("", "Name a run's folder: python -m trainer.report runs/faces"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_changes_nothing(
    line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (make_run(tmp_path / "run") / "report.html").write_text("mine")
    (tmp_path / "run" / "STOP").touch()
    (tmp_path / "folder.html").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, out, err = run(line.replace("@", str(tmp_path)), capsys)
    assert (code, out, err) == (2, "", f"error: {message}\n".replace("@", str(tmp_path)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}.items() >= before.items()
    assert (tmp_path / "run" / "report.html").read_text() == "mine"


def test_a_page_is_replaced_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (make_run(tmp_path / "run") / "report.html").write_text("mine")
    assert run(f"{tmp_path}/run --force", capsys)[0] == 0
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")


def test_several_runs_go_into_the_working_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/run", "b/run"):
        make_run(tmp_path / name, seed=len(name))
    monkeypatch.chdir(tmp_path)
    assert run("a/run b/run a/../b/run", capsys) == (0, "report.html\n", "")
    page = Page(Path("report.html").read_text())
    assert [line["label"] for line in page.data["training"][0]["lines"]] == ["a/run", "b/run"]


def test_damaged_lines_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of each journal, on the terminal and on the page."""
    folder = make_run(tmp_path / "run", results=[result(10, {"swd": 9.0})])
    good = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(
        "".join([*good[:2], "[1]\n", '{"step": 25}\n', *good[2:], '{"step": 50, "ima'])
    )
    (folder / "scores.jsonl").write_text((folder / "scores.jsonl").read_text() + '{"step": 3}\n')
    (folder / "environment.jsonl").write_text('{"step": 0, "ranks": 3}\n{"step')
    (folder / "rollbacks.jsonl").write_text('{"step": 20}\n{"step": 30, "rollbacks": 2, "cause": "NaN."}\n')
    code, _, err = run(str(folder), capsys)
    assert code == 0
    assert [line.removeprefix(f"warning: {folder}/") for line in err.splitlines()] == [
        "metrics.jsonl: lines 3, 4, 7 are damaged and left out.",
        "scores.jsonl: line 2 is damaged and left out.",
        "environment.jsonl: line 2 is damaged and left out.",
        "rollbacks.jsonl: line 1 is damaged and left out.",
    ]
    page = Page((folder / "report.html").read_text())
    assert page.curve("training", "Losses")["x"] == [320, 640, 960, 1280]
    assert [chart["title"] for chart in page.data["scores"]] == ["Sliced Wasserstein distance"]
    assert all(line.removeprefix("warning: ") in page.text for line in err.splitlines())
    assert "ranks\n3\n" in page.text and "rollbacks\nto step 30\n" in page.text


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    whole, out = make_run(tmp_path / "run"), tmp_path / "page.html"
    left_out = f"{tmp_path}/empty is not a run folder: it holds no status.json."
    code, _, err = run(f"{tmp_path}/empty {whole} --out {out}", capsys)
    assert (code, err) == (0, f"warning: {left_out} It is left out.\n")
    assert left_out in Page(out.read_text()).text
    code, _, err = run(f"{tmp_path}/empty {tmp_path}/nothing --out {out} --force", capsys)
    assert code == 2 and err.startswith(f"error: {left_out} There is no run at") and err.count("\n") == 1


def test_values_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", results=[result(20, {"swd": float("nan")}), result(30, {"swd": 5.0})])
    rows = [metric(10), metric(20, **{"loss/g": float("nan")}), metric(30, **{"loss/g": 10**400, "loss/d": True})]
    (folder / "metrics.jsonl").write_text(lines(rows))
    page = page_of(folder)
    assert page.curve("training", "Losses", 1)["y"] == [11.0, None, None]
    assert page.curve("training", "Losses", 1)["last"] == "inf"
    assert page.curve("training", "Losses")["x"] == [320, 640]
    assert page.curve("scores", "Sliced Wasserstein distance")["best"] == 960


def test_what_a_folder_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that has only begun, and one whose sheets and config are damaged."""
    folder = make_run(tmp_path / "run", steps=())
    (folder / "metrics.jsonl").unlink()
    (folder / "samples" / "real.png").unlink()
    page = page_of(folder)
    assert page.data == {"scores": [], "training": [], "end": 1}
    assert all(text in page.text for text in ("No sheets yet.", "No scores yet.", "No metrics yet.")) and not page.of(
        "img"
    )

    damaged = make_run(tmp_path / "damaged")
    sheets = damaged / "samples"
    (sheets / "step-000000010.png").write_bytes(b"")
    whole = (sheets / "step-000000020.png").read_bytes()
    (sheets / "step-000000020.png").write_bytes(whole[: len(whole) // 2])
    (sheets / "real.png").write_bytes(whole[:-40])
    Image.new("RGB", (4, 4)).save(sheets / "step-000000030.png", "gif")
    (sheets / "step-000000050.png").mkdir()
    (damaged / "config.yaml").write_text("{")
    shutil.rmtree(damaged / "checkpoints", ignore_errors=True)
    (damaged / "checkpoints").symlink_to("checkpoints")
    code, _, err = run(str(damaged), capsys)
    assert code == 0 and f"{damaged}/checkpoints cannot be read" in err
    assert len(err.splitlines()) == 7 and all(line.startswith("warning: ") for line in err.splitlines())
    assert [image["data-x"] for image in Page((damaged / "report.html").read_text()).of("img")] == ["1280"]


@pytest.mark.parametrize("count", [1, 4])
def test_any_damage_to_a_sheet_is_only_a_damaged_sheet(count: int, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=(10,))
    sheet = folder / "samples" / "step-000000010.png"
    whole = sheet.read_bytes()
    for place in range(0, len(whole), 67 if count == 1 else 131):
        sheet.write_bytes(
            whole[:place] + bytes(255 - byte for byte in whole[place : place + count]) + whole[place + count :]
        )
        encode.cache_clear()
        make_page(read_runs([folder]))


def test_a_running_run_shows_what_is_left(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", state="running")
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("steps: 40", "steps: 80"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(lines([metric(40, **{"speed/images_per_second": 128.0})]))
    with alive(folder):
        text = page_of(folder).text
        assert "running" in text and "step 40 of 80" in text and "0:00:40 left" in text
    RunFolder(folder).write_status("running", 40, 40 * BATCH, warnings=["D has won."])
    text = page_of(folder).text
    assert "killed" in text and "D has won." in text


def test_settings_that_differ_come_first(tmp_path: Path) -> None:
    text = page_of(make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=7)).text.split()
    start = text.index("preset", text.index("settings"))
    assert text.index("seed", start) < text.index("data.flip", start)
    assert text[text.index("seed", start) :][:4] == ["seed", "0", "7", "preset:"]


def test_scores_of_fewer_samples_and_older_results_do_not_count(tmp_path: Path) -> None:
    results = [
        result(10, {"fid": 1.0}, samples=500),
        result(20, {"fid": 40.0, "kd-lite0": 1.0}),
        result(30, {"fid": 33.0, "kd-lite0": 2.0}),
        result(30, {"fid": 31.0}),
    ]
    run_with = read_runs([make_run(tmp_path / "run", results=results)])[0]
    assert run_with.scores["fid"] == {20 * BATCH: 40.0, 30 * BATCH: 31.0}
    assert run_with.best is not None
    assert (run_with.best[0], run_with.best[1].position, run_with.best[1].scores["fid"]) == ("fid", 30 * BATCH, 31.0)
    (tmp_path / "run" / "checkpoints" / "step-000000030").rmdir()
    run_with = read_runs([tmp_path / "run"])[0]
    assert run_with.best is not None and run_with.best[1].step == 20  # as --checkpoint best
    assert run_with.scores["fid"] == {20 * BATCH: 40.0, 30 * BATCH: 31.0}


def test_several_runs_share_charts_and_a_table(tmp_path: Path) -> None:
    better = {"swd": 4.0, "recall-lite0": 0.5, "ms-ssim": 0.3}
    first = make_run(tmp_path / "first", results=[result(20, better), result(40, {"swd": 5.0})])
    with (first / "metrics.jsonl").open("a") as file:
        file.write(lines([metric(40, **{"evaluation/swd": 5.0})]))
    second = make_run(tmp_path / "second", results=[result(40, {"swd": 6.0, "recall-lite0": 0.75})])
    page = page_of(first, second)
    assert [chart["title"] for chart in page.data["training"]] == ["Losses: D", "Losses: G"]
    assert [chart["title"] for chart in page.data["scores"]] == ["swd", "recall-lite0", "ms-ssim"]
    assert [(line["label"], line["colour"]) for line in page.data["scores"][0]["lines"]] == [
        ("first", 0),
        ("second", 1),
    ]
    assert sum("data-x" not in image for image in page.of("img")) == 1  # the real images, which both runs share
    words = page.text.split()
    assert words[words.index("↓") - 1 :][:9] == ["swd", "↓", "5", "4", "step", "20", "6", "6", "step"]
    assert words[words.index("↑") - 1 :][:9] == [
        "recall-lite0",
        "↑",
        "0.5",
        "0.5",
        "step",
        "20",
        "0.75",
        "0.75",
        "step",
    ]
