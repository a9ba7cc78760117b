"""``accelerate launch trainer/run.py [faces|mnist|celeba|lsun] [flags]``: the command line, and how it fails."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
import warnings

from shards.common.errors import InputError
from shards.common.urls import redact
from trainer.config import Config, parse
from trainer.errors import SharedInputError
from trainer.ranks.launch import end_with_launcher, read_launch

USAGE_ERROR = 2
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
"""What can befall any write in the run folder; a person needs the file's name, not our traceback."""


GRACE = 5.0
"""Seconds that a rank with nothing to tell waits before it fails: the launcher takes the first one to end for the
cause, and all others down with it, the one too that was about to say what is wrong.
"""


def main() -> None:
    """Run the trainer; what the user can put right is said in one line on standard error, with exit code 2."""
    shown = os.environ.get("RANK", "0") == "0"
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        preset, config = _parse(shown=shown)
        end_with_launcher()
        sys.argv = [redact(word) for word in sys.argv]  # W&B records the command line
        mistake, shared = _train(preset, config)
    except InputError as error:
        mistake = error
        shared = True
    if mistake:
        if shown:
            print(f"error: {mistake}", file=sys.stderr)
        elif shared:
            time.sleep(GRACE)
        else:
            print(f"error (rank {os.environ['RANK']} on {platform.node()}): {mistake}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


def _parse(*, shown: bool) -> tuple[str, Config]:
    try:
        return parse(quiet=not shown)
    except SystemExit:
        if not shown:
            time.sleep(GRACE)
        raise


def _train(preset: str, config: Config) -> tuple[Exception | None, bool]:
    """Run ``config``; a mistake of the user's comes back as a value, because elastic would print its traceback, with
    whether all ranks found the same.
    """
    # Not at the top: torch takes seconds to import, and --help or a typo should not wait for it.
    from torch.distributed.elastic.multiprocessing.errors import record

    from trainer.ranks.failure import lost_rank
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
                where = f"rank {os.environ['RANK']} on {platform.node()}"
                print(f"error ({where}): another rank was lost: {str(error).splitlines()[0]}", file=sys.stderr)
            time.sleep(GRACE)
            sys.exit(1)
        return None

    # Under torch's elastic launcher a bug's traceback must reach the launcher, or it reports "exit code 1" and no more.
    elastic = "TORCHELASTIC_ERROR_FILE" in os.environ
    mistake = record(attempt)() if elastic else attempt()
    return mistake, isinstance(mistake, SharedInputError)


if __name__ == "__main__":
    main()
