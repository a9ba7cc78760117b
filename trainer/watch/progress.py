"""Shows the progress of training: a live line on a terminal, one plain line per report elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

DEFAULT_COLUMNS = 80
"""Width of a terminal that does not report one."""


class Progress:
    """Counts steps up to ``total``. Silent unless ``shown``, as on all ranks but the first."""

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
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} ETA {remaining} {desc}",
        )

    def step(self) -> None:
        """Count one step."""
        self._bar.update()

    def saved(self, step: int) -> None:
        """Show ``step`` as the newest published checkpoint. Any thread may call this."""
        self._saved = step

    def report(self, row: Mapping[str, float], seconds_left: float) -> None:
        """Show the newest figures."""
        figures = format_figures(row, self._saved)
        if self._live:
            taken = len(f"100%|#| {self._total}/{self._total} ETA 000:00:00 ")
            columns = self._bar.format_dict["ncols"] or 0
            room = (columns if columns > 0 else DEFAULT_COLUMNS) - taken
            while len(" ".join(figures)) > max(room, 0):  # tqdm would trim in the middle of a number
                figures.pop()
            self._bar.set_description_str(" ".join(figures))
        elif self._lines:
            left, text = tqdm.format_interval(int(seconds_left)), " ".join(figures)
            print(f"step {int(row['step'])}/{self._total} {text} ETA {left}", file=sys.stderr, flush=True)

    def write(self, message: str) -> None:
        """Print one line without disturbing the bar."""
        if self._live:
            tqdm.write(message, file=sys.stderr)
        elif self._lines:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def format_figures(row: Mapping[str, float], saved: int | None) -> list[str]:
    """The figures of ``row`` and the step of the newest checkpoint, the most important ones first."""
    skipped = int(row.get("amp/skipped_d", 0) + row.get("amp/skipped_g", 0))
    device = f"+{row['memory/device_gb']:.1f}" if "memory/device_gb" in row else ""
    figures = [
        f"D {row['loss/d']:.3f} G {row['loss/g']:.3f}",
        f"skipped {skipped}" if skipped else "",
        f"D(x) {row['score/real']:.2f}",
        f"D(G(z)) {row['score/fake_before']:.2f}/{row['score/fake_after']:.2f}",
        f"{row['speed/images_per_second']:.0f} img/s",
        f"wait {row['data/wait']:.0%}",
        f"{row['memory/host_gb']:.1f}{device} GB",
        "" if saved is None else f"saved {saved}",
    ]
    return [figure for figure in figures if figure]
