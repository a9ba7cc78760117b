"""The trainer's entry point: ``accelerate launch trainer/run.py [PRESET] [flags]``."""

from __future__ import annotations

import os
import platform
import sys
import time
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from shards.common.command import USAGE_ERROR, conclude, explain, is_explained
from shards.common.errors import InputError
from shards.common.names import printable
from shards.common.urls import redact
from trainer.errors import SharedInputError
from trainer.ranks.launch import end_with_launcher, read_launch

if TYPE_CHECKING:
    from trainer.config import Config

GRACE = 5.0
"""Seconds that a rank without a message of its own waits before it exits: the launcher kills all ranks when the first
one exits, and the rank that reports the error needs time to print it."""


def main() -> None:
    """Run the trainer and exit. An error that the user can fix is one line on standard error, with exit code 2."""
    sys.exit(conclude(_main))


def _main() -> None:
    main_rank = os.environ.get("RANK", "0") in ("0", "", "-1")
    try:
        preset, config = _parse(main_rank=main_rank)
        end_with_launcher()
        sys.argv = [printable(redact(word)) for word in sys.argv]  # W&B records the command line
        error = _train(preset, config)
        shared = isinstance(error, SharedInputError)
    except InputError as wrong_input:  # of the command line, which is the same on all ranks
        error, shared = wrong_input, True
    if error is None:
        return
    message = explain(error) if isinstance(error, OSError) else str(error)
    if main_rank:
        print(f"error: {message}", file=sys.stderr)
    elif shared:
        time.sleep(GRACE)
    else:
        print(f"error (rank {os.environ['RANK']} on {platform.node()}): {message}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def _parse(*, main_rank: bool) -> tuple[str, Config]:
    # Imported here, as torch below, so that Ctrl-C during an import is no traceback.
    from trainer.presets import parse

    try:
        return parse(quiet=not main_rank)
    except SystemExit:
        if not main_rank:
            time.sleep(GRACE)
        raise


def _train(preset: str, config: Config) -> Exception | None:
    """Train; returns an error that the user can fix: if raised, the elastic launcher would print its traceback."""
    # torch takes seconds, which --help and a typo should not cost.
    from torch.distributed.elastic.multiprocessing.errors import record

    from trainer.ranks.environment import check_environment
    from trainer.ranks.rendezvous import lost_rank
    from trainer.train.start import run

    def attempt() -> Exception | None:
        try:
            check_environment()
            # A training has no results to print, and a closed pipe must not end it.
            with redirect_stdout(sys.stdout if config.dry_run else sys.stderr):
                run(preset, config, read_launch())
        except InputError as error:
            return error
        except OSError as error:
            if not is_explained(error):
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
