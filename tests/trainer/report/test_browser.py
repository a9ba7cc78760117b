"""The page in a real browser: headless Chromium, from file://."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.report.make import make_run, result
from tests.trainer.report.test_report import make_evil_run
from trainer.report.page import make_page
from trainer.report.read import read_runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium"),
    pytest.mark.timeout(300),
]

DRIVER = """
const at = (plot, share) => {
  const box = plot.getBoundingClientRect();
  return { clientX: box.left + share * box.width, clientY: box.top + 40, bubbles: true };
};
const shown = () => [...document.querySelectorAll("img[data-x]:not([hidden])")].map((image) => image.dataset.x);
const values = (chart) => [...chart.querySelectorAll(".legend b")].map((output) => output.textContent);
const [first, ...others] = document.querySelectorAll(".chart");
const [plot, time] = [first.querySelector(".plot"), document.getElementById("time")];
const seen = { width: document.documentElement.scrollWidth, charts: others.length + 1 };
seen.final = [shown(), values(first)];
seen.colours = [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color];
time.value = 0;
time.dispatchEvent(new Event("input"));
seen.slid = [shown(), document.getElementById("now").textContent, time.getAttribute("aria-valuetext")];
document.getElementById("best").click();
seen.best = [shown(), document.querySelector("figcaption").textContent];
plot.dispatchEvent(new PointerEvent("pointermove", at(plot, 0.3)));
seen.hovered = [values(first), values(others.at(-1)), document.querySelectorAll(".cross").length];
plot.dispatchEvent(new MouseEvent("click", at(plot, 0.9)));
seen.clicked = shown();
plot.dispatchEvent(new PointerEvent("pointerleave"));
plot.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
seen.home = [values(first), plot.getAttribute("aria-valuetext")];
plot.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
const button = first.querySelector("button");
button.click();
seen.log = [button.getAttribute("aria-pressed"), values(first), first.querySelectorAll("path.line").length];
document.title = JSON.stringify(seen);
"""
"""Uses the page as a person does and leaves what it saw in the title."""


def open_page(page: str, folder: Path, *, width: int, dark: bool = False) -> tuple[str, str]:
    """The document after its scripts have run, and what the browser says on its console."""
    path = folder / "page.html"
    path.write_bytes(page.encode(errors="backslashreplace"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=5000"]
    flags += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-extensions"]
    flags += [f"--user-data-dir={folder}/profile", f"--window-size={width},900", "--enable-logging=stderr"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    words = [CHROMIUM or "", *flags, "--dump-dom", path.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout, "\n".join(re.findall(r".*CONSOLE.*", done.stderr))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of 4 sheets and 2 scored checkpoints, the first of which has the better score at step 20."""
    folder, scores = tmp_path_factory.mktemp("runs"), [(20, 3.0, 4.0), (40, 5.0, 6.0)]
    return [
        make_run(folder / f"run{run}", seed=run, results=[result(row[0], {"kd-lite0": row[run]}) for row in scores])
        for run in (1, 2)
    ]


def test_the_page_of_evil_texts_runs_under_its_policy(tmp_path: Path) -> None:
    """All charts have curves of finite coordinates, and the console has no error, no violation and no alert."""
    page = make_page(read_runs([make_evil_run(tmp_path)]))
    document, console = open_page(page, tmp_path, width=1280)
    assert console == ""
    paths = re.findall(r'<path class="line[^"]*" d="([^"]*)"', document)
    assert len(paths) == 6 and paths.count("") == 1  # the curve that is never finite
    assert all(re.fullmatch(r"(?:[ML]-?[\d.]+,-?[\d.]+)*", path) for path in paths)
    assert "NaN" not in "".join(re.findall("<svg.*?</svg>", document))
    assert document.count('<figure class="chart"') == len(re.findall(r"<svg ", document)) > 2
    assert "onerror" not in re.sub(r'="[^"]*"|<script.*?</script>', "", document, flags=re.DOTALL).replace(
        "&lt;img src=x onerror", ""
    )


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_slider_curves_and_keys(width: int, dark: bool, runs: list[Path], tmp_path: Path) -> None:
    """On a phone and on a desktop, dark and light."""
    page = re.sub(r"<meta http-equiv[^>]*>", "", make_page(read_runs(runs)))
    page = page.replace("</body>", f"<script>setTimeout(() => {{{DRIVER}}}, 500)</script></body>")
    document, console = open_page(page, tmp_path, width=width, dark=dark)
    assert console == ""
    seen: dict[str, Any] = json.loads(re.search("<title>(.*?)</title>", document)[1].replace("&amp;", "&"))  # type: ignore[index]
    assert seen["width"] <= max(width, 500)  # nothing makes the page wider than the window, of 500 pixels at least
    assert seen["charts"] == 3
    levels = [sum(map(int, re.findall(r"\d+", colour))) for colour in seen["colours"]]
    assert (levels[0] < levels[1]) == dark
    assert seen["final"] == [["1280", "1280"], ["5", "6"]]
    assert seen["slid"] == [["320", "320"], "320", "320 images seen"]
    assert seen["best"][0] == ["640", "640"] and seen["best"][1].endswith("This is the best checkpoint.")
    assert seen["hovered"][0] == ["3", "4"] and seen["hovered"][2] == 3
    assert seen["hovered"][1] == ["11", "11"]  # at the same place, the loss of G
    assert seen["clicked"] == ["960", "960"]
    assert seen["home"] == [["3", "4"], "640 images: run1 3, run2 4"]
    assert seen["log"] == ["true", ["5", "6"], 2]
