"""``python -m trainer.report RUN [RUN ...]``: one self-contained HTML page, made from run folders without torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from shards.common.errors import InputError
from shards.common.files import atomic_write
from trainer.cli import check_free, conclude, parse_command


@dataclass(frozen=True)
class Report:
    """Write a page about runs: samples over time, scores, losses, data and settings. Several runs share all axes.

    The page is one file that needs no network, so it can be copied, mailed and opened anywhere. It shows a run as it is
    now; a run that still trains is not disturbed.

    Example: python -m trainer.report runs/faces runs/mnist --out faces-and-mnist.html
    """

    runs: Positional[tuple[Path, ...]]
    """Run folders."""
    out: Path | None = None
    """Path of the page, an .html; if not given, RUN/report.html for one run, report.html here for several."""
    force: bool = False
    """Replace the page if it exists."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("Name a run's folder: python -m trainer.report runs/faces")
        if self.out and self.out.suffix != ".html":
            raise InputError(f"--out is {self.out}; the name of a page must end in .html.")


def report(options: Report) -> None:
    """Writes the page; raises ``InputError`` if it exists or cannot be written, or if no run can be read."""
    # Not at the top: --help should not wait for Pillow.
    from trainer.report.page import make_page
    from trainer.report.read import read_runs

    left_out: list[str] = []
    runs = read_runs(options.runs, left_out.append)
    single = len({path.resolve() for path in options.runs}) == 1
    out = options.out or (options.runs[0] if single else Path()) / "report.html"
    check_free([out], force=options.force)
    page = make_page(runs, left_out)
    for problem in [*left_out, *(problem for run in runs for problem in run.problems)]:
        print(f"warning: {problem}", file=sys.stderr)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as file:
            file.write(page.encode(errors="backslashreplace"))  # the name of a folder may be no text
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}). Give another --out.") from error
    print(out)


if __name__ == "__main__":
    sys.exit(conclude(lambda: report(parse_command(Report, "report"))))
