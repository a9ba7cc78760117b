"""What a person sees while a run trains: a live bar on a terminal, a plain line per report elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm


class Progress:
    """Counts steps towards ``total``; silent when not ``shown`` (other ranks)."""

    def __init__(self, step: int, total: int, *, shown: bool) -> None:
        self._live = shown and sys.stderr.isatty()
        self._lines = shown and not self._live
        self._total = total
        self._bar = tqdm(
            initial=step, total=total, unit="step", disable=not self._live, dynamic_ncols=True, smoothing=0.05
        )

    def step(self) -> None:
        """One more step is done."""
        self._bar.update()

    def report(self, row: Mapping[str, float], seconds_left: float) -> None:
        """Show the newest figures."""
        figures = (
            f"D {row['loss/d']:.3f} G {row['loss/g']:.3f} D(x) {row['score/real']:.2f} "
            f"D(G(z)) {row['score/fake_before']:.2f}/{row['score/fake_after']:.2f} "
            f"{row['speed/images_per_second']:.0f} img/s wait {row['data/wait']:.0%}"
        )
        if skipped := int(row.get("amp/skipped_d", 0) + row.get("amp/skipped_g", 0)):
            figures += f" skipped {skipped}"
        if self._live:
            self._bar.set_postfix_str(figures)
        elif self._lines:
            left = tqdm.format_interval(int(seconds_left))
            print(f"step {int(row['step'])}/{self._total} {figures} ETA {left}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """One line, kept clear of the bar."""
        if self._live:
            tqdm.write(message, file=sys.stderr)
        elif self._lines:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
