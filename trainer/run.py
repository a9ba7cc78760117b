"""The trainer's entry point: ``accelerate launch trainer/run.py [PRESET] [flags]``."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
import warnings

from shards.common.errors import InputError
from shards.common.urls import redact
from trainer.config import Config
from trainer.errors import SharedInputError
from trainer.presets import parse
from trainer.ranks.launch import end_with_launcher, read_launch

USAGE_ERROR = 2
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
"""Errors of the run folder's disk, which are reported with the file's name instead of a traceback."""

GRACE = 5.0
"""Seconds that a rank without a message of its own waits before it exits: the launcher kills all ranks when the first
one exits, and the rank that reports the error needs time to print it."""


def main() -> None:
    """Run the trainer. An error that the user can fix is one line on standard error, with exit code 2."""
    main_rank = os.environ.get("RANK", "0") == "0"
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        preset, config = _parse(main_rank=main_rank)
        end_with_launcher()
        sys.argv = [redact(word) for word in sys.argv]  # W&B records the command line
        error = _train(preset, config)
        shared = isinstance(error, SharedInputError)
    except InputError as wrong_input:  # of the command line, which is the same on all ranks
        error, shared = wrong_input, True
    if error is None:
        return
    if main_rank:
        print(f"error: {error}", file=sys.stderr)
    elif shared:
        time.sleep(GRACE)
    else:
        print(f"error (rank {os.environ['RANK']} on {platform.node()}): {error}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _parse(*, main_rank: bool) -> tuple[str, Config]:
    try:
        return parse(quiet=not main_rank)
    except SystemExit:
        if not main_rank:
            time.sleep(GRACE)
        raise


def _train(preset: str, config: Config) -> Exception | None:
    """Train; returns an error that the user can fix: if raised, the elastic launcher would print its traceback."""
    # Imported here because torch takes seconds, which --help and a typo should not cost.
    from torch.distributed.elastic.multiprocessing.errors import record

    from trainer.ranks.rendezvous import lost_rank
    from trainer.train.start import run

    def attempt() -> Exception | None:
        try:
            run(preset, config, read_launch())
        except InputError as error:
            return error
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            return error
        except RuntimeError as error:
            if not lost_rank(error):
                raise
            if os.environ.get("LOCAL_RANK") == "0":  # once in each node's log
                rank = f"rank {os.environ['RANK']} on {platform.node()}"
                print(f"error ({rank}): another rank was lost: {str(error).splitlines()[0]}", file=sys.stderr)
            time.sleep(GRACE)
            sys.exit(1)
        return None

    # The elastic launcher reports the traceback of a bug only if it is recorded.
    return record(attempt)() if "TORCHELASTIC_ERROR_FILE" in os.environ else attempt()


if __name__ == "__main__":
    main()
