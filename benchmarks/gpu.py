"""Runs all that needs a GPU, in less than ten minutes on one, and prints one Markdown table.

The parts are the tests with the mark ``gpu`` and the benchmarks of the training step, of BatchNorm over ranks, of a
whole run and of ``torch.compile``. Each is a process of its own with a time limit, so that one that fails or hangs
leaves the others their time. Beside the figures stand the goals of the project. The exit code is 1 if a test or a part
failed, whether or not the goals are reached.

Example: uv run python -m benchmarks.gpu --json gpu.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import torch

from benchmarks.measure import cli, flops
from benchmarks.measure.trainer import started
from benchmarks.rivals.contestants import AUTOCAST, CHANNELS, EXAMPLE, SIZE
from shards.common.errors import InputError
from trainer.ranks.device import has_bf16

TESTS = Path(__file__).parent.parent / "tests"

GOALS = {128: {EXAMPLE: 6.0, AUTOCAST: 2.5}, 1024: {"matrix product": 0.35}}
"""Of shardgan in bf16, by batch size: speed relative to a rival, and share of the rate of a bf16 matrix product."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """All tests and benchmarks that need a GPU."""

    minutes: float = 9.9
    """Time limit of the whole command."""
    features: int = 64
    """Width of both networks."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    measurement: str
    figure: str
    goal: str = ""
    failed: bool = False
    """Whether a test or a part failed. A goal that is missed is no failure."""


@dataclass(frozen=True)
class Part:
    """A command, and how its results are read."""

    name: str
    command: Sequence[str]
    """Its last word is the file that it writes the results to."""
    seconds: float
    """Time limit."""
    rows: Callable[[Path], list[Row]]


def parts(arguments: Arguments, folder: Path, *, bf16: bool) -> list[Part]:
    """The parts, whose results go to ``folder``; those in bf16 only if the GPU has it."""
    python = [sys.executable, "-m"]
    # Collecting all modules takes half a minute. By default, all tests of a module run in one process.
    modules = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    words = ["-q", "-m", "gpu", "--dist=load", *modules, "--junitxml", str(folder / "tests.xml")]
    found = [Part("tests", [*python, "pytest", *words], 230, read_tests)]
    width, best = ["--features", str(arguments.features)], "bf16" if bf16 else "float32"

    def step(batch: int, precision: str, file: str, *flags: str) -> list[str]:
        words = ["--batch-size", str(batch), "--precision", precision, "--rounds", "3", "--iterations", "30"]
        return [*python, "benchmarks.step", *width, *words, *flags, "--json", str(folder / file)]

    for batch, precision, seconds in [(128, "bf16", 45), (128, "float32", 45), (1024, best, 75)]:
        if bf16 or precision == "float32":
            command = step(batch, precision, f"step-{batch}-{precision}.json")
            found.append(Part(f"step, batch {batch}, {precision}", command, seconds, read_step))
    words = [*width, "--json", str(folder / "batchnorm.json")]
    found.append(Part("BatchNorm", [*python, "benchmarks.batchnorm", *words], 40, read_batch_norm))
    words = [*width, "--batch-size", "128", "--steps", "1000", "--rounds", "1", "--workers", "4"]
    words += ["--json", str(folder / "run.json")]
    found.append(Part("whole run", [*python, "benchmarks.run", *words], 70, read_run))
    # The last one, because nobody knows how long it takes to compile.
    found.append(Part("torch.compile", step(128, best, "compiled.json", "--compile"), 90, read_compiled))
    return found


def read_tests(report: Path) -> list[Row]:
    """How many tests passed, failed and were skipped, and the names of those that failed."""
    cases = [*ElementTree.parse(report).iter("testcase")]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    counts = {"passed": len(cases) - len(failed) - len(skipped), "failed": len(failed), "skipped": len(skipped)}
    reached = bool(counts["passed"]) and not failed
    figure = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "passed")
    total = Row("tests", figure, f"all: {'reached' if reached else 'missed'}", failed=not reached)
    return [total] + [Row("failed test", f"`{case.get('name')}`", failed=True) for case in failed]


def read_step(report: Path) -> list[Row]:
    """The speed of each contestant of :mod:`benchmarks.step`, relative to the example and to a matrix product."""
    figures = json.loads(report.read_text())
    arguments, medians, rate = figures["arguments"], figures["median"], figures["rate"]
    batch, precision = arguments["batch_size"], arguments["precision"]
    operations = batch * flops.iteration(flops.forward(SIZE, CHANNELS, 100, *[arguments["features"]] * 2))
    rows = [Row(f"{precision} matrix product (batch {batch})", f"{rate / 1e12:,.1f} TFLOP/s")]
    for name, seconds in medians.items():
        what = f"batch {batch}, {name}"
        rows.append(Row(what, f"{seconds * 1e3:.2f} ms per step, {batch / seconds:,.0f} images/s"))
        if name.startswith("shardgan"):
            goals = GOALS.get(batch, {}) if precision == "bf16" else {}
            for rival in (EXAMPLE, AUTOCAST):
                if rival in medians:
                    ratio, goal = medians[rival] / seconds, goals.get(rival)
                    rows.append(Row(f"{what}: relative to {rival}", f"{ratio:.2f}x", _judge(ratio, goal, "{:g}x")))
            share, goal = operations / seconds / rate, goals.get("matrix product")
            rows.append(Row(f"{what}: share of the matrix product", f"{share:.0%}", _judge(share, goal, "{:.0%}")))
    return rows


def read_batch_norm(report: Path) -> list[Row]:
    """The time of all BatchNorm layers, of one rank and over ranks."""
    figures = json.loads(report.read_text())
    what = f"all BatchNorm layers, batch {figures['arguments']['batch_size']}"
    return [Row(f"{what}: {name}", f"{seconds * 1e3:.2f} ms") for name, seconds in figures["median"].items()]


def read_compiled(report: Path) -> list[Row]:
    """What :func:`read_step` says of the contestants with ``torch.compile``; the others are in other parts."""
    return [row for row in read_step(report) if "compiled" in row.measurement]


def read_run(report: Path) -> list[Row]:
    """The speed of a whole run, its share of that of the step alone, and its share of the time spent waiting."""
    figures = json.loads(report.read_text())
    what, (run,) = f"whole run, batch {figures['arguments']['batch_size']}", figures["runs"]
    return [
        Row(what, f"{run['images_per_second']:,.0f} images/s"),
        Row(f"{what}: relative to its step alone", f"{run['ratio']:.3f}x"),
        Row(f"{what}: waiting for data", f"{run['waiting']:.1%}"),
        Row(f"{what}: memory of the GPU", f"{run['device_gb']:.1f} GiB"),
    ]


def _judge(figure: float, goal: float | None, style: str) -> str:
    return "" if goal is None else f"{style.format(goal)}: {'reached' if figure >= goal else 'missed'}"


def run(parts: Sequence[Part], seconds: float) -> Iterator[Row]:
    """Runs one part after another, all within ``seconds``. A part that ends without results gets a row that says so."""
    end = time.monotonic() + seconds
    for part in parts:
        limit = min(part.seconds, end - time.monotonic())
        print(f"{part.name} (at most {max(0, limit):.0f} s)", file=sys.stderr, flush=True)
        try:
            if limit > 0:
                with started(part.command, sys.stderr, output=sys.stderr) as process:
                    process.wait(limit)
            yield from part.rows(Path(part.command[-1]))
        except subprocess.TimeoutExpired:
            yield Row(part.name, f"stopped after {limit:.0f} s", "to end: missed", failed=True)
        except FileNotFoundError:
            why = "failed; its output is above" if limit > 0 else "not begun: no time was left"
            yield Row(part.name, why, "to end: missed", failed=True)


def table(rows: Sequence[Row], heading: str) -> str:
    """The rows in Markdown, below a line on the machine."""
    lines = [heading, "", "| measurement | figure | goal |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row.measurement} | {row.figure} | {row.goal} |" for row in rows)])


def describe_gpu() -> str:
    """Name, driver and versions in one line."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "of unknown version"
    versions = f"driver {driver}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {versions}, {cli.describe_machine()}"


def benchmark(arguments: Arguments) -> None:
    """Runs all parts and prints the table.

    Raises:
        InputError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise InputError("This command needs a GPU, and torch finds none. The other benchmarks run on a CPU, too.")
    with TemporaryDirectory() as folder:
        rows = [*run(parts(arguments, Path(folder), bf16=has_bf16(cpu=False)), 60 * arguments.minutes)]
    heading = describe_gpu()
    print(table(rows, heading))
    cli.write_json(arguments, gpu=heading, rows=[asdict(row) for row in rows])
    if any(row.failed for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
