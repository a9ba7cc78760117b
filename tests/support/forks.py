"""Python commands without the 4 s of imports that each would begin with: a process that has them forks for each one.

``python -m tests.support.forks`` is that process. Each fork runs the module or script as ``__main__``.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from trainer.ranks.launch import LAUNCH_VARIABLE

ROOT = Path(__file__).parent.parent.parent
LAUNCHER = "accelerate.commands.launch"
IMPORTED = (LAUNCHER, "huggingface_hub", "torch.distributed.elastic.multiprocessing.errors", "tqdm",
            "trainer.folder.load_run", "trainer.train.start", "webdataset", "wandb")  # fmt: skip


class Python:
    """Runs ``python`` with words, one command after the other."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __call__(
        self, *words: str, cwd: Path, env: dict[str, str] | None = None, stdout: str = "stdout"
    ) -> subprocess.CompletedProcess[str]:
        """``python *words`` in ``cwd`` with ``env`` on top of the environment; the caller looks at the exit code."""
        with tempfile.TemporaryDirectory() as place:
            output = [Path(place) / name for name in (stdout, "stderr")]
            job = {"words": words, "cwd": str(cwd), "env": {**_environment(), **(env or {})},
                   "output": [str(path) for path in output]}  # fmt: skip
            try:
                answer = self._ask(json.dumps(job))
            except BaseException:  # pytest's timeout: the next command must not read the answer to this one
                self.close()
                raise
            assert answer, "the process that forks has died"
            return subprocess.CompletedProcess(
                words, int(answer), *(path.read_text() if path.is_file() else "" for path in output)
            )

    def _ask(self, job: str) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forks"],
                cwd=ROOT, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        print(job, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def close(self) -> None:
        """Kill the process, and a command that it is running."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None


@cache
def python() -> Python:
    """The one of this test process."""
    python = Python()
    atexit.register(python.close)
    return python


def _environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "SLURM_"))}
    return {**env, "OMP_WAIT_POLICY": "PASSIVE"}  # as for the tests themselves


def _serve() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # or every fork's first collection would copy the memory of them all
    answers = os.dup(1)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.close(answers)
            os._exit(_end_of(json.loads(line)))
        os.write(answers, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


def _end_of(job: dict[str, Any]) -> int:
    """The exit code of a command. To take all modules down as an interpreter does costs another second."""
    code: object = 0
    try:
        _become(**job)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # what an interpreter does first
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


def _become(words: Sequence[str], cwd: str, env: dict[str, str], output: Sequence[str]) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for descriptor, path in ((0, os.devnull), (1, output[0]), (2, output[1])):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    what, *rest = words
    sys.path[0] = cwd
    if words[:2] == ["-m", LAUNCHER]:
        _launch(rest[1:])
    elif what == "-c":
        sys.argv = [what, *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif what == "-m":
        sys.argv = rest
        if not hasattr(sys.modules.get(rest[0]), "__path__"):
            sys.modules.pop(rest[0], None)  # of a module that is imported already, runpy warns
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [what, *rest]
        runpy.run_path(what, run_name="__main__")


def _launch(words: Sequence[str]) -> None:
    """As accelerate does, which would run the script in a process of its own; several ranks become one."""
    from accelerate.commands import launch
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    told = launch.launch_command_parser().parse_args(words)
    script, flags = told.training_script, told.training_script_args
    if not told.multi_gpu:
        told, *_ = launch._validate_launch_command(told)
        os.environ |= prepare_simple_launcher_cmd_env(told)[1]
        del os.environ[LAUNCH_VARIABLE]  # there is no launcher to follow
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    _serve()
