"""What a person sees while a run trains: a live line on a terminal, a plain line per report elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm

LEAST_BAR = 6
"""Columns for the bar itself, of which tqdm gives it whatever the figures leave."""


class Progress:
    """Counts steps towards ``total``; silent when not ``shown`` (other ranks)."""

    def __init__(self, step: int, total: int, *, shown: bool) -> None:
        self._live = shown and sys.stderr.isatty()
        self._lines = shown and not self._live
        self._total = total
        self._saved: int | None = None
        self._bar = tqdm(
            initial=step,
            total=total,
            disable=not self._live,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format="{percentage:3.0f}%{bar}{n_fmt}/{total_fmt} ETA {remaining} {desc}",
        )

    def step(self) -> None:
        """One more step is done."""
        self._bar.update()

    def saved(self, step: int) -> None:
        """A checkpoint of ``step`` is whole. May be called by any thread."""
        self._saved = step

    def report(self, row: Mapping[str, float], seconds_left: float) -> None:
        """Show the newest figures."""
        if self._live:
            taken = len(f"100%{self._total}/{self._total} ETA 0:00:00 ") + LEAST_BAR
            self._bar.set_description_str(fit(figures(row, self._saved), _columns() - 1 - taken))
        elif self._lines:
            left, told = tqdm.format_interval(int(seconds_left)), " ".join(figures(row, self._saved).values())
            print(f"step {int(row['step'])}/{self._total} {told} ETA {left}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """One line, kept clear of the bar."""
        if self._live:
            tqdm.write(message, file=sys.stderr)
        elif self._lines:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def figures(row: Mapping[str, float], saved: int | None) -> dict[str, str]:
    """The newest figures in words, by topic, in the order in which they are shown. ``saved``: step of a checkpoint."""
    skipped = int(row.get("amp/skipped_d", 0) + row.get("amp/skipped_g", 0))
    device = f"+{row['memory/device_gb']:.1f}" if "memory/device_gb" in row else ""
    return {
        "losses": f"D {row['loss/d']:.3f} G {row['loss/g']:.3f}",
        "real": f"D(x) {row['score/real']:.2f}",
        "fake": f"D(G(z)) {row['score/fake_before']:.2f}/{row['score/fake_after']:.2f}",
        "speed": f"{row['speed/images_per_second']:.0f} img/s",
        "wait": f"wait {row['data/wait']:.0%}",
        "memory": f"{row['memory/host_gb']:.1f}{device} GB",
        **({"skipped": f"skipped {skipped}"} if skipped else {}),
        **({} if saved is None else {"saved": f"saved {saved}"}),
    }


SHORTER: Sequence[tuple[str, str, str]] = (
    ("losses", "D ", "D"),
    ("losses", " G ", " G"),
    ("fake", "D(G(z)) ", "G(z) "),
    ("speed", " img/s", "/s"),
    ("memory", " GB", "G"),
    ("saved", "saved ", "ck "),
    ("wait", "wait ", "w"),
)
"""How a figure is written where the line is short: topic, words, fewer words."""

DROPPED = ("saved", "memory", "wait", "real", "speed", "fake", "skipped", "losses")
"""What is left out where even that is too long, the first one first."""


def fit(told: Mapping[str, str], width: int) -> str:
    """``told`` in at most ``width`` columns, so that a terminal does not wrap it: shorter words, then fewer figures."""
    left = dict(told)
    for topic, words, fewer in SHORTER:
        if len(" ".join(left.values())) > width and topic in left:
            left[topic] = left[topic].replace(words, fewer)
    for topic in DROPPED:
        if len(" ".join(left.values())) > width:
            left.pop(topic, None)
    return " ".join(left.values())


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:  # closed meanwhile
        return 80
