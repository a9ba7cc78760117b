"""Every command explains itself with an example of its own use."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.forks import Python, python
from tests.support.launching import ROOT
from tests.support.pages import PAGES

FOLDERS = ("trainer", "shards", "launch", "benchmarks")
INTERNAL = {"shards/loading/worker.py", "shards/building/worker.py"}
"""Of the loader and of the build, which start them with numbers."""
KINDS = re.compile(r"\{([a-z][a-z,|-]+)\}(?: \[|$)")
"""Sub-commands in a usage, which end it or are followed by their own flags."""
BEFORE = r"Example: (?:(?:uv run|accelerate launch)(?: --[\w-]+(?: [\w.]+)?)* )*"


def programs() -> list[str]:
    """Every file that a person runs, as a path."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [str(path.relative_to(ROOT)) for path in files if '__name__ == "__main__"' in path.read_text()]
    return [path for path in found if path not in INTERNAL]


def start(program: str) -> str:
    """How it is started, after ``python``."""
    scripts = ("launch/", "trainer/run.py")
    name = program.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
    return program if program.startswith(scripts) else f"-m {name}"


def usage_of(said: str) -> str:
    return " ".join(said.partition("\n\n")[0].split())


def helps(python: Python, program: str, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """The command and all its sub-commands: the words that name it, and what it says."""
    done = python(*start(program).split(), *words, "--help", cwd=ROOT, env={"COLUMNS": "400"})
    assert done.returncode == 0, done.stderr
    yield words, done.stdout
    if kinds := KINDS.search(usage := usage_of(done.stdout)):
        operands = re.findall(r"\b[A-Z]+\b", usage[: kinds.start()])
        for kind in re.split("[,|]", kinds[1]):
            yield from helps(python, program, (*words, *operands, kind))


@pytest.mark.timeout(400)
def test_every_command_shows_an_example_of_its_own() -> None:
    """Its flags, and those that the docs show in passing, are flags of the command."""
    without, seen = [], set()
    pages = "".join((ROOT / page).read_text() for page in PAGES)
    for program in programs():
        for words, said in helps(python(), program):
            own = " ".join([start(program), *words])
            wanted = BEFORE + "(?:python )?" + re.sub(r"\b[A-Z]+\b", r"\\S+", re.escape(own)) + r"\b([^│\n]*)"
            found = re.search(wanted, said)
            used = " ".join(re.findall(rf"`[^`\n]*{re.escape(own)}\b([^`\n]*)`", pages))
            flags = re.findall(r"--\w[\w.-]*", f"{found[1] if found else ''} {used}")
            leaf = not KINDS.search(usage_of(said))
            if not found or (
                leaf and not all(re.search(rf"^│ .*?(?<![\w-]){flag}(?![\w.-])", said, re.MULTILINE) for flag in flags)
            ):
                without.append(own)
            seen.add(own)
    assert not without
    known = {"trainer/run.py", "trainer/run.py lsun", "-m shards build folder", "-m shards info", "-m benchmarks.step",
             "-m trainer.explore RUN walk", "-m trainer.export", "-m trainer.report",
             "launch/dashboard.py"}  # fmt: skip
    assert known <= seen


@pytest.mark.timeout(400)
def test_every_command_survives_a_full_device_and_a_narrow_terminal() -> None:
    """Its exit code tells, not a traceback; with 5 columns, a help text must not take for ever."""
    env = {"COLUMNS": "5", "LINES": "0", "TERM": "dumb"}
    for program in programs():
        done = python()(*start(program).split(), "--help", cwd=ROOT, env=env, stdout="/dev/full")
        assert done.returncode == 2 and done.stderr.startswith("error: standard output: No space left"), program
        assert done.stderr.count("\n") == 1, program
