from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios

import pytest

from trainer.watch.progress import Progress, figures, fit

ROW = {
    "step": 12.0,
    "loss/d": 0.6931,
    "loss/g": 1.25,
    "score/real": 0.61,
    "score/fake_before": 0.4,
    "score/fake_after": 0.35,
    "speed/images_per_second": 1234.5,
    "data/wait": 0.034,
    "memory/host_gb": 1.23,
}
FIGURES = "D 0.693 G 1.250 D(x) 0.61 D(G(z)) 0.40/0.35 1234 img/s wait 3% 1.2 GB"


def show(*, shown: bool) -> None:
    progress = Progress(10, 20, shown=shown)
    for _ in range(2):
        progress.step()
    progress.saved(10)
    progress.report(ROW, seconds_left=3725)
    progress.say("Leaving now.")
    progress.close()


def test_without_a_terminal_a_report_is_one_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    show(shown=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"step 12/20 {FIGURES} saved 10 ETA 1:02:05\nLeaving now.\n"


def test_other_ranks_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    show(shown=False)
    assert capfd.readouterr() == ("", "")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, *, shown: bool) -> str:
    """Everything that a terminal of ``columns`` got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        show(shown=shown)
        monkeypatch.undo()
        terminal.write("end")
        terminal.flush()
        text = b""
        while not text.endswith(b"end"):
            text += os.read(ours, 1 << 16)
    os.close(ours)
    return text.decode()


def test_on_a_terminal_one_line_is_live(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    screen = on_a_terminal(monkeypatch, 160, shown=True)
    assert "\r" in screen
    assert re.search(r"60%.*12/20 ETA .*", screen)
    assert f"{FIGURES} saved 10" in screen
    assert re.search(r"^Leaving now\.\r?$", re.sub(r"\r(?!\n)", "\n", screen), re.MULTILINE)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_other_ranks_are_silent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(monkeypatch, 160, shown=False) == "end"


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 140])
def test_the_live_line_never_wraps(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    drawn = re.split(r"[\r\n]", on_a_terminal(monkeypatch, columns, shown=True))
    assert all(len(line) <= columns for line in drawn)
    losses = "D 0.693 G 1.250" if columns >= 140 else "D0.693 G1.250"
    assert columns < 60 or any(losses in line for line in drawn)


@pytest.mark.parametrize("width", range(0, 120, 7))
def test_figures_fit_and_the_first_ones_stay_longest(width: int) -> None:
    told = figures({**ROW, "memory/device_gb": 10.0, "amp/skipped_d": 3.0}, saved=39_000)
    line = fit(told, width)
    assert len(line) <= width
    assert not line or line.startswith("D")
    assert fit(told, 200) == " ".join(told.values())


def test_steps_left_out_for_an_overflow_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10, 20, shown=True)
    progress.report({**ROW, "amp/skipped_d": 2.0, "amp/skipped_g": 1.0}, seconds_left=0)
    progress.close()
    assert f"{FIGURES} skipped 3 ETA" in capfd.readouterr().err
