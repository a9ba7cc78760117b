"""The results of a study as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.study.engine import Row

SCORES = ("fid", "kid", "fd-labels", "kd-labels", "class-coverage", "agreement", "coverage-labels", "fd-lite0",
          "kd-lite0", "coverage-lite0", "swd", "ms-ssim")  # fmt: skip
"""Those that a table shows by default, where they exist."""


def render(rows: Iterable[Row], columns: Sequence[str] = SCORES) -> str:
    """A line for each variant, in the order of ``rows``, a column for each score of ``columns`` that a run has.

    A cell is the mean over the seeds of the score at the end of the run, and in brackets its least and its largest
    value. The second column says how many runs ended, if some failed.
    """
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.variant, []).append(row)
    ended = {name: [row.scores[-1] for row in found if row.error is None] for name, found in by_name.items()}
    shown = [column for column in columns if any(column in scores for found in ended.values() for scores in found)]
    lines = [["variant", "runs", *shown], ["---"] * (2 + len(shown))]
    for name, found in by_name.items():
        runs = f"{len(ended[name])}" + (f" of {len(found)}" if len(ended[name]) < len(found) else "")
        lines.append([name, runs, *(spread([s[column] for s in ended[name] if column in s]) for column in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """The mean of ``values`` and their range, in four digits."""
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"
