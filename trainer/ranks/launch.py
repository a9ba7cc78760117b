"""How ``accelerate launch`` started this process. Imports torch only where it is needed: ``--help`` does not wait."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil

from shards.common.errors import InputError
from trainer.ranks.environment import CONFIG_HINT, check_mpi, check_plugins, describe_variables

LAUNCH_VARIABLE = "ACCELERATE_DYNAMO_BACKEND"  # accelerate sets it in every script it starts; others hardly do
LAUNCHERS = ("accelerate", "accelerate-launch", "accelerate.commands.launch")  # a command line's script or module
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Launch:
    """What ``accelerate launch`` passed to this process in its environment."""

    rank: int
    ranks: int
    local_ranks: int  # on this machine
    cpu: bool  # there is no GPU, or the user chose the CPU
    precision: str  # requested mixed precision: no, bf16 or fp16


def read_launch() -> Launch:
    """Read the launch of this process; without a launcher it is rank 0 of 1. Raises ``InputError``."""
    import torch
    from accelerate.utils import parse_flag_from_env

    try:
        use_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    except ValueError:
        value = os.environ["ACCELERATE_USE_CPU"]
        raise InputError(f"ACCELERATE_USE_CPU is {value!r}; it must be true or false.") from None
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    return Launch(
        rank=int(os.environ.get("RANK", 0)),
        ranks=ranks,
        local_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", ranks)),
        cpu=use_cpu or not torch.cuda.is_available(),
        precision=os.environ.get("ACCELERATE_MIXED_PRECISION", "no"),
    )


def check_launch(launch: Launch, batch_size: int, accumulate: int = 1) -> None:
    """Raise ``InputError`` unless the trainer supports what was requested from the launcher, which started as many
    ranks as requested, and the batch can be divided among them and into ``accumulate`` parts.
    """
    check_plugins()
    if launch.cpu and launch.ranks == 1:
        check_mpi()
    if not launch.cpu and launch.ranks > 1 and "LOCAL_RANK" not in os.environ:
        raise InputError(f"{describe_variables()}: LOCAL_RANK, the number of this rank's GPU, is missing.")
    requested = requested_ranks()
    if requested and requested != launch.ranks:
        raise InputError(
            f"The launcher was asked for {requested} ranks and started {launch.ranks}: without --multi_gpu, or with "
            "--cpu, it starts one. GPUs: accelerate launch --multi_gpu --num_processes N. CPU ranks: "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N."
        )
    if launch.ranks == 1 and _set_by_launcher("MASTER_ADDR"):  # by num_processes in accelerate's config
        raise InputError(f"accelerate's config requests several processes, and one was started. {CONFIG_HINT}")
    if batch_size % launch.ranks:
        divisible = max(1, round(batch_size / launch.ranks)) * launch.ranks
        raise InputError(
            f"--batch-size {batch_size} does not divide among {launch.ranks} ranks; --batch-size {divisible} does."
        )
    if (rows := batch_size // launch.ranks) % accumulate:
        possible = max(count for count in range(1, min(accumulate, rows) + 1) if rows % count == 0)
        raise InputError(
            f"--accumulate {accumulate} does not divide the {rows} images of a rank's batch; "
            f"--accumulate {possible} does."
        )


def find_launcher() -> psutil.Process | None:
    """The nearest ancestor of this process that is ``accelerate launch``."""
    try:
        for process in psutil.Process().parents():
            if any(Path(word).name in LAUNCHERS for word in process.cmdline()[:4]):
                return process
    except psutil.Error:  # it has ended, or belongs to another user
        pass
    return None


def launch_time() -> float:
    """When the launcher started, or this process if there is none, in seconds since the epoch."""
    return (find_launcher() or psutil.Process()).create_time()


def requested_ranks() -> int | None:
    """``--num_processes`` on the launcher's command line; None if it is absent or 0 (accelerate then chooses)."""
    launcher = find_launcher()
    arguments = launcher.cmdline() if launcher else []
    words = [word for argument in arguments for word in argument.split("=", 1)]
    values = [value for name, value in pairwise(words) if name in ("--num_processes", "--num-processes")]
    return int(values[-1]) or None if values and values[-1].isdigit() else None


def _set_by_launcher(name: str) -> bool:
    """Whether ``accelerate launch`` set the variable ``name``, rather than to inherit it."""
    launcher = find_launcher()
    try:
        return launcher is not None and name in os.environ and name not in launcher.environ()
    except psutil.Error:
        return False


def end_with_launcher() -> None:
    """Receive SIGTERM when the launcher dies (Linux only).

    A launcher that is killed does not stop its scripts: the run would train on unnoticed and keep its folder locked.
    Raises ``InputError`` if the launcher is dead already.
    """
    if platform.system() != "Linux" or LAUNCH_VARIABLE not in os.environ:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if find_launcher() is None:  # it died before the call above
        raise InputError("accelerate launch, which started this, is gone: nothing was trained. Start it again.")
