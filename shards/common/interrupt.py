"""What Ctrl-C does while a command starts. Packages import this module first, so it imports as little as possible."""

from __future__ import annotations

import signal


def end_quietly_on_interrupt() -> None:
    """Until :func:`shards.common.command.conclude`, Ctrl-C ends the process without a traceback, even in an import."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
