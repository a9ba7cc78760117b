from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable
from functools import partial

import pytest

from trainer.watch.progress import Progress, format_figures, seconds_left

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
    progress.write("Leaving now.")
    progress.close()


def test_without_a_terminal_a_report_is_one_plain_line(capfd: pytest.CaptureFixture[str]) -> None:
    show(shown=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"step 12/20 {FIGURES} saved 10 ETA 1:02:05\nLeaving now.\n"


def test_other_ranks_are_silent(capfd: pytest.CaptureFixture[str]) -> None:
    show(shown=False)
    assert capfd.readouterr() == ("", "")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, play: Callable[[], None]) -> str:
    """Everything that a terminal of ``columns`` got from ``play``."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        play()
        monkeypatch.undo()
        terminal.write("end")
        terminal.flush()
        text = b""
        while not text.endswith(b"end"):
            text += os.read(ours, 1 << 16)
    os.close(ours)
    return text.decode()


def test_on_a_terminal_one_line_is_live(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    screen = on_a_terminal(monkeypatch, 160, partial(show, shown=True))
    assert "\r" in screen
    assert re.search(r"60%.*12/20 ETA .*", screen)
    assert f"{FIGURES} saved 10" in screen
    assert re.search(r"^Leaving now\.\r?$", re.sub(r"\r(?!\n)", "\n", screen), re.MULTILINE)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_other_ranks_are_silent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(monkeypatch, 160, partial(show, shown=False)) == "end"


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_the_live_line_never_wraps_and_shows_whole_figures(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    drawn = re.split(r"[\r\n]", on_a_terminal(monkeypatch, columns, partial(show, shown=True)))
    assert all(len(line) <= columns for line in drawn)
    shown = {re.sub(r".* ETA \S+ ?", "", line).strip() for line in drawn if " ETA " in line} - {""}
    figures = format_figures(ROW, saved=10)
    assert shown <= {" ".join(figures[:count]) for count in range(len(figures) + 1)}
    assert columns < 60 or any(text.startswith("D 0.693 G 1.250") for text in shown)


def test_the_time_left_includes_what_holds_steps_up_also_after_a_return(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)

    def play() -> None:
        nonlocal now
        progress = Progress(0, 200, shown=True)
        for seconds in [1] * 9 + [101] + [1] * 90:  # an evaluation before the tenth step
            now += seconds
            progress.step()
        progress.rewind(50)
        progress.close()

    screen = on_a_terminal(monkeypatch, 80, play)
    left = {int(step): time for step, time in re.findall(r"(\d+)/200 ETA (\S+)", screen)}
    assert (left[9], left[10], left[50], left[100]) == ("03:11", "34:50", "05:00", "03:20")


def test_the_time_left_includes_evaluations() -> None:
    speed = {"speed/images_per_second": 128.0}
    assert seconds_left(1280, speed) == 10.0
    assert seconds_left(1280, {**speed, "speed/evaluation": 0.5}) == 20.0


def test_steps_left_out_for_an_overflow_are_shown(capfd: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10, 20, shown=True)
    progress.report({**ROW, "amp/skipped_d": 2.0, "amp/skipped_g": 1.0}, seconds_left=0)
    progress.close()
    assert " G 1.250 skipped 3 D(x) " in capfd.readouterr().err
