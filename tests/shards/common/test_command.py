from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shards.common.command import read_words
from shards.common.errors import InputError
from tests.support.launching import ROOT


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["x", "--out", ""], "The value of --out is empty"),
        (["--data.cache=", "x"], "The value of --data.cache is empty"),
        (["--out= "], "The value of --out is empty"),
        (["", "--seed", "1"], "Argument 1 is empty"),
        (["x", "\t"], "Argument 2 is empty"),
        (["--seed", "1", ""], "Argument 3 is empty"),
    ],
)
def test_empty_words_are_named(words: list[str], what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_words(words)


def test_other_words_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["x", "--where=https://h/x?sig=a=", "https://h/x?sig=", "--flip", "-", "--", "a b"]
    assert read_words(words) == words
    assert read_words([]) == []
    monkeypatch.setattr(sys, "argv", ["program", *words])
    assert read_words() == words


PROGRAM = """
import sys, os, shutil, warnings
from shards.common.command import InputError, conclude

def command():
    {}

sys.exit(conclude(command))
"""


@contextmanager
def closed_pipe() -> Iterator[int]:
    """What writes to it fails, as behind `| head` when that has left."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def end(code: str, redirect: str = "", **more: Any) -> tuple[int, str, str]:
    """The exit code of a program that consists of ``code``, and what it printed where ``redirect`` left that here."""
    words = ["sh", "-c", f'"$@" {redirect}', "sh", sys.executable, "-c", PROGRAM.format(code)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    env = {**os.environ, **pipes.pop("env", {})}
    done = subprocess.run(words, env=env, check=False, **pipes)
    return done.returncode, *((said or b"").decode() for said in (done.stdout, done.stderr))  # type: ignore[return-value]


@pytest.mark.parametrize("text", ["'x'", "'x' * 20000, flush=True", "'x'); sys.exit(0"])
def test_a_reader_that_leaves_ends_the_command_without_an_error(text: str) -> None:
    with closed_pipe() as pipe:
        assert end(f"print({text})", stdout=pipe) == (0, "", "")
    assert end(f"print({text})", ">/dev/full") == (
        2, "", "error: standard output: No space left on device. Free space, and run the command again.\n"
    )  # fmt: skip


def test_an_error_before_output_is_lost_is_the_one_that_is_printed() -> None:
    assert end("raise InputError('no')", ">/dev/full") == (2, "", "error: no\n")
    code, _, errors = end("raise BrokenPipeError(32, 'of a worker')", ">/dev/full")
    assert code == 1 and "of a worker" in errors  # not that of standard output: a bug


@pytest.mark.parametrize("redirect", ["2>/dev/full", "2>&-", "<&- >&- 2>&-"])
def test_lost_error_output_ends_no_command(tmp_path: Path, redirect: str) -> None:
    """Closed descriptors are taken, so that no file gets their number and what C code prints."""
    path = tmp_path / "x"
    code = f"print('x', file=sys.stderr); warnings.warn('x'); open({str(path)!r}, 'w').write('done'); os.fstat(2)"
    assert end(f"{code}; assert open({str(path)!r}).fileno() > 2", redirect) == (0, "", "")
    assert path.read_text() == "done"
    with closed_pipe() as pipe:
        assert end(code, stderr=pipe) == (0, "", "")


@pytest.mark.parametrize(("columns", "width"), [("5", 40), ("1", 40), ("0", 80), ("-3", 80), ("abc", 80), ("100", 100),
                                                ("9" * 9, 400)])  # fmt: skip
def test_the_width_is_one_that_a_help_text_fits(columns: str, width: int) -> None:
    env = {"COLUMNS": columns, "LINES": columns}
    assert end("print(shutil.get_terminal_size().columns)", env=env, stdin=subprocess.DEVNULL)[1] == f"{width}\n"


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", "caf\\udce9 \\xe9 \\u5bff"), ("utf-8", "caf\\udce9 é 寿")])
def test_any_name_can_be_printed(encoding: str, printed: str) -> None:
    env = {"PYTHONIOENCODING": encoding}
    name = "'caf\\udce9 \\xe9 \\u5bff'"
    assert end(f"print({name})", env=env)[1] == f"{printed}\n"
    assert end(f"raise InputError({name})", env=env)[2] == f"error: {printed}\n"


def test_a_current_folder_that_was_deleted(tmp_path: Path) -> None:
    """torch would end the process there."""
    gone = f"mkdir {tmp_path}/x && cd {tmp_path}/x && rmdir {tmp_path}/x && exec"
    words = ["sh", "-c", f'{gone} "$@"', "sh", sys.executable, "-m", "trainer.status", "run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: The current folder is gone (No such file or directory): cd to one that exists.\n"


def test_packages_import_next_to_nothing_before_an_interrupt_is_quiet() -> None:
    script = (
        "import signal, sys\nstandard, before = signal.signal, {*sys.modules}\n"
        "def report(*words):\n    print(*({*sys.modules} - before))\n    return standard(*words)\n"
        "signal.signal, sys.argv = report, [sys.argv[1]]\nimport trainer\n"
    )
    for word in ("-m", "trainer/run.py", "/x/trainer/run.py"):
        done = subprocess.run(
            [sys.executable, "-c", script, word], cwd=ROOT, capture_output=True, text=True, check=True
        )
        imported = {*done.stdout.splitlines()[0].split()}
        assert imported <= {"__future__", "trainer", "shards", "shards.common", "shards.common.interrupt"}


def test_an_interrupt_during_imports_is_no_traceback(tmp_path: Path) -> None:
    """What a command imports first comes to hang here; the trainer imports torch later than its other modules."""
    hanging = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    for module, words, code in [
        ("tyro", ("-m", "trainer.status"), -signal.SIGINT),
        ("tyro", ("-m", "shards"), -signal.SIGINT),
        ("tyro", ("trainer/run.py",), 130),
        ("psutil", ("trainer/run.py",), -signal.SIGINT),
        ("torch", ("trainer/run.py",), 130),
    ]:
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(hanging)
        env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        done = subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
        shutil.rmtree(tmp_path / module)
