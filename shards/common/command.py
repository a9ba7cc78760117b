"""How every command begins and ends: its standard streams, its exit code, and errors as one line."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from shards.common.errors import InputError
from shards.common.names import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

USAGE_ERROR = 2
INTERRUPTED = 130
WIDTHS = (40, 400)
"""Least and largest number of columns of a help text. In fewer than 8, tyro searches for a line break for ever."""

STDOUT = "standard output"
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space, and run the command again."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Correct the permissions, or name another place."),
    **dict.fromkeys((errno.EIO, errno.ESTALE), "The disk or its server failed. Run the command again, or elsewhere."),
    errno.EFBIG: "The disk, or a limit (ulimit -f), allows no larger file.",
    errno.EMFILE: "Raise the limit on open files: ulimit -n.",
    errno.ENOENT: "",  # of tempfile, without a folder that it can use
}
"""What to do about errors of the operating system; these are the user's even if they name no file."""


class _Stream(io.FileIO):
    """A standard stream. If it is ``lossy``, what cannot be written is dropped, and is no error."""

    lossy = False

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.lossy:
                return memoryview(data).nbytes
            error.filename = STDOUT
            raise


def conclude(command: Callable[[], None], on_interrupt: str = "") -> int:
    """Runs ``command`` and returns the exit code; an error that the user can fix is one line on standard error.

    A standard output that its reader closes, as ``| head`` does, ends the command without an error.
    """
    _prepare()
    try:
        try:
            _check_current_folder()
            command()
        finally:
            sys.stdout.flush()  # what fails here would otherwise fail at exit, with a traceback
    except InputError as error:
        return _fail(str(error))
    except OSError as error:
        if not is_explained(error):
            raise
        if error.filename == STDOUT:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is still buffered
            if isinstance(error, BrokenPipeError):
                return 0
        return _fail(explain(error))
    except KeyboardInterrupt:
        if on_interrupt:
            print(on_interrupt, file=sys.stderr)
        return INTERRUPTED
    return 0


def read_words(words: Sequence[str] | None = None) -> list[str]:
    """The words of the command line, by default those of the process.

    Raises:
        InputError: a word or the value of a flag is empty, as an unset variable of the shell leaves it. As a path it
            would be the current folder.
    """
    words = list(sys.argv[1:] if words is None else words)
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if not value.strip() and (equals or not flag):
            before = flag or (words[number - 1] if number else "")
            what = f"The value of {before}" if before.startswith("--") else f"Argument {number + 1}"
            raise InputError(f"{what} is empty: an unset variable?")
    return words


def is_explained(error: OSError) -> bool:
    """Whether ``error`` is about a file or a disk, not about a connection or a bug."""
    return error.filename is not None or error.errno in ADVICE


def explain(error: OSError) -> str:
    """The file, what is wrong with it, and what to do, where that is not obvious."""
    advice = ADVICE.get(error.errno or 0)
    return ": ".join(printable(str(part)) for part in (error.filename, error.strerror) if part) + (
        f". {advice}" if advice else ""
    )


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:  # torch would end the process with a message about its own files
        raise InputError(f"The current folder is gone ({error.strerror}): cd to one that exists.") from error


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USAGE_ERROR


def _prepare() -> None:
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.stdin is None:  # closed, as by `<&-`: the next file that is opened would get its number
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    if sys.stdout is sys.__stdout__:  # else it was replaced before, here or by a test
        sys.stdout = _reopen(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _reopen(sys.stderr, lossy=True)  # a closed terminal must not end a training
    least, most = WIDTHS
    if not least <= (columns := shutil.get_terminal_size().columns) <= most:
        os.environ["COLUMNS"] = str(min(max(columns, least), most))


def _reopen(stream: TextIO | None, *, lossy: bool = False) -> TextIO:
    """A :class:`_Stream` in place of ``stream``, if that is open. Bytes in names of files, and characters, that its
    encoding lacks are printed as escapes.
    """
    raw = _Stream(os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno(), "wb", closefd=False)
    raw.lossy = lossy
    encoding = stream.encoding if stream else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lossy or raw.isatty())
