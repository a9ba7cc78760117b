"""``python -m trainer.status RUN [RUN ...]``: how runs stand."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, PositionalMetavarFromFieldName

from shards.common.errors import InputError
from trainer.status.standing import Standing, look


@dataclass(frozen=True)
class Status:
    """Show how runs stand: state, newest figures, time left, last checkpoint, newest sheet of samples.

    Example: python -m trainer.status runs/faces runs/mnist
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of runs."""
    json: bool = False
    """One JSON object a line, for programs."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("Name a run's folder: python -m trainer.status runs/faces")


def describe(standing: Standing) -> str:
    """For people: a few lines."""
    row = standing.figures
    whole = f"{standing.step:,}" + (f" of {standing.steps:,} steps" if standing.steps is not None else " steps")
    held = " (a process is starting or ending)" if standing.alive and standing.state != "running" else ""
    lines = [f"{standing.run}: {standing.state}{held}, {whole}"]
    if standing.epoch is not None:
        lines[0] += f", epoch {standing.epoch:.2f}"
    if standing.eta_seconds is not None:
        lines[0] += f", {_span(standing.eta_seconds)} left"
    if told := _figures(row):
        lines.append(f"  figures     {told}")
    if standing.checkpoint and standing.checkpoint_age_seconds is not None:
        lines.append(f"  checkpoint  {standing.checkpoint}, {_span(standing.checkpoint_age_seconds)} old")
    if standing.samples:
        lines.append(f"  samples     {standing.samples}")
    if standing.state == "killed":
        where = "goes on from the last checkpoint" if standing.checkpoint else "starts anew: it had no checkpoint yet"
        lines.append(f"  its process is gone; the same command {where}")
    if standing.error:
        lines.append(f"  error       {standing.error}")
    return "\n".join(lines)


def _figures(row: dict[str, float]) -> str:
    """Those that the row has: another version may have written it."""
    shown = {
        "loss/d": "D {:.3f}",
        "loss/g": "G {:.3f}",
        "score/real": "D(x) {:.2f}",
        "score/fake_before": "D(G(z)) {:.2f}",
        "score/fake_after": "then {:.2f}",
        "speed/images_per_second": "{:.0f} images/s",
        "data/wait": "wait {:.0%}",
    }
    return ", ".join(text.format(row[name]) for name, text in shown.items() if name in row)


def _span(seconds: float) -> str:
    return str(timedelta(seconds=max(0, round(seconds))))


def main(words: Sequence[str]) -> int:
    """Parse, look, print; what the user can put right is one line on standard error for each run, and exit code 2."""
    code = 0
    try:
        asked = tyro.cli(
            Status,
            prog="python -m trainer.status",
            args=words,
            config=(PositionalMetavarFromFieldName, FlagCreatePairsOff),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for run in asked.runs:
        try:
            standing = look(run)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        else:
            print(json.dumps(dataclasses.asdict(standing)) if asked.json else describe(standing), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
