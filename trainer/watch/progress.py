"""Shows the progress of training: a live line on a terminal, one plain line per report elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress

from tqdm import tqdm

FIGURES = (
    "D {loss/d:.3f}",
    "G {loss/g:.3f}",
    "skipped {skipped:.0f}",
    "D(x) {score/real:.2f}",
    "D(G(z)) {score/fake_before:.2f}/{score/fake_after:.2f}",
    "{speed/images_per_second:.0f} img/s",
    "wait {data/wait:.0%}",
    "{memory/host_gb:.1f}{device} GB",
    "saved {saved}",
)
"""What is shown of a row, the most important figures first."""


class Progress:
    """Counts steps up to ``total``. Silent unless ``shown``, as on all ranks but the first."""

    def __init__(self, step: int, total: int, *, shown: bool) -> None:
        self._shown, self._live = shown, shown and sys.stderr.isatty()
        self._total = total
        self._saved: int | None = None
        self._bar = tqdm(
            initial=step,
            total=total,
            disable=not self._live,
            dynamic_ncols=True,
            smoothing=0,  # the mean speed: the last one would forget the evaluations, or know nothing else
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} ETA {remaining} {desc}",
        )

    def step(self) -> None:
        self._bar.update()

    def saved(self, step: int) -> None:
        """Show ``step`` as the newest published checkpoint. Any thread may call this."""
        self._saved = step

    def report(self, row: Mapping[str, float], seconds_left: float) -> None:
        """Show the newest figures."""
        figures = format_figures(row, self._saved)
        if self._live:
            columns = self._bar.format_dict["ncols"] or 80  # a terminal may report no width
            room = columns - len(f"100%|#| {self._total}/{self._total} ETA 000:00:00 ")
            while len(" ".join(figures)) > max(room, 0):  # tqdm would trim in the middle of a number
                figures.pop()
            self._bar.set_description_str(" ".join(figures))
        else:
            left = tqdm.format_interval(int(seconds_left))
            self.write(f"step {int(row['step'])}/{self._total} {' '.join(figures)} ETA {left}")

    def rewind(self, step: int) -> None:
        """Count again from ``step``."""
        if self._live:
            self._bar.initial += step - self._bar.n  # the mean speed is that of all steps, also of those done twice
            self._bar.n = self._bar.last_print_n = step
            self._bar.refresh()

    def write(self, message: str) -> None:
        """Print one line without disturbing the bar."""
        if self._shown:
            tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def seconds_left(images: int, row: Mapping[str, float]) -> float:
    """The time for ``images`` more at the speed in ``row``, if evaluations take the same share of it as so far."""
    return images / row["speed/images_per_second"] / (1 - row.get("speed/evaluation", 0.0))


def format_figures(row: Mapping[str, float], saved: int | None = None) -> list[str]:
    """The :data:`FIGURES` that ``row`` has, and the step of the newest checkpoint."""
    values: dict[str, float | str] = {**row, "device": ""}
    if "memory/device_gb" in row:
        values["device"] = f"+{row['memory/device_gb']:.1f}"
    if skipped := row.get("amp/skipped_d", 0) + row.get("amp/skipped_g", 0):
        values["skipped"] = skipped
    if saved is not None:
        values["saved"] = saved
    figures = []
    for figure in FIGURES:
        with suppress(KeyError):
            figures.append(figure.format_map(values))
    return figures
