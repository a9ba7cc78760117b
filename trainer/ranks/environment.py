"""Checks the environment variables of launchers, which a shell or a container may have inherited from another one.

PyTorch and accelerate trust these variables: they would wait for ranks that nobody started until a timeout.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil

from shards.common.errors import InputError

RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
RENDEZVOUS = ("MASTER_ADDR", "MASTER_PORT")
MPI = (
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
    "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_RANK",
)  # fmt: skip
"""Variables of Open MPI, of MPICH and Intel MPI, and of MVAPICH. On the CPU, accelerate reads them too."""

PLUGINS = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}
CONFIG_HINT = "Launch with accelerate launch --config_file accelerate_config.yaml."

START = 10.0
"""Seconds for the other ranks of this machine to appear; a launcher starts all of them at once."""


def check_environment() -> None:
    """Raise ``InputError`` if the launcher's variables contradict each other or name ranks that do not exist.

    Empty and negative numbers, which some tools use for "not set", are removed from the environment. With one rank,
    ``LOCAL_RANK`` is removed too: accelerate would start a process group because of it.
    """
    for name in (*RANK, *RENDEZVOUS, *MPI, "ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
        if name in os.environ and os.environ[name].strip() in ("", "-1"):
            del os.environ[name]
    if problem := _find_problem():
        raise InputError(f"{describe_variables()}: {problem}. {_advice()}")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        os.environ.pop("LOCAL_RANK", None)
        return
    found, expected = _local_ranks()
    if found < expected:
        raise InputError(f"{describe_variables()}: this machine runs {found} of {expected} ranks. {_advice()}")


def check_mpi() -> None:
    """Raise ``InputError`` if MPI's variables name several ranks. For a run of one rank on the CPU: accelerate would
    look for the others.
    """
    if any(int(os.environ.get(name, 1)) > 1 for name in MPI if name.endswith("_SIZE") and "LOCAL" not in name):
        raise InputError(f"{describe_variables()}: PyTorch's WORLD_SIZE and RANK do not name these ranks. {_advice()}")


def check_plugins() -> None:
    """Raise ``InputError`` if accelerate's config requests what the trainer does not support."""
    requested = [name for variable, name in PLUGINS.items() if os.environ.get(variable, "").lower() in ("true", "1")]
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() not in ("", "no"):
        requested.append(f"the dynamo backend {backend.lower()}")
    if requested:
        raise InputError(f"accelerate's config requests {', '.join(requested)}, which is not supported. {CONFIG_HINT}")


def describe_variables() -> str:
    """The launcher's variables in the environment, for a message."""
    return "The environment says " + ", ".join(f"{name}={os.environ[name]}" for name in _present())


def _advice() -> str:
    return (
        "For several ranks, start all of them with accelerate launch --multi_gpu. If another launcher left these "
        f"variables behind: unset {' '.join(_present())}"
    )


def _present() -> list[str]:
    return [name for name in (*RANK, *RENDEZVOUS, *MPI) if name in os.environ]


def _find_problem() -> str | None:
    """Why the variables cannot be those of one launch, or None."""
    numbers: dict[str, int] = {}
    for name in (*RANK, "MASTER_PORT", *MPI):
        if name in os.environ:
            if not os.environ[name].strip().isdecimal():
                return f"{name} is not a number"
            numbers[name] = int(os.environ[name])
    ranks = numbers.get("WORLD_SIZE", 1)
    needed = ("RANK", "WORLD_SIZE", *RENDEZVOUS) if ranks > 1 else ("RANK", "WORLD_SIZE")
    missing = [name for name in needed if name not in os.environ]
    if missing and (ranks > 1 or "LOCAL_RANK" in numbers):
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    limits = (("RANK", ranks), ("LOCAL_RANK", numbers.get("LOCAL_WORLD_SIZE", ranks)), ("LOCAL_WORLD_SIZE", ranks + 1))
    over = [name for name, limit in limits if numbers.get(name, 0) >= limit]
    return f"{over[0]} is too large" if over else None


def _local_ranks() -> tuple[int, int]:
    """How many ranks run on this machine, and how many have to: a launcher that has ended left no others."""
    own = psutil.Process()
    started = own.environ()
    if started.get("RANK") != os.environ["RANK"]:  # set within this process, so invisible in the others
        return 1, 1
    ranks, address = os.environ["WORLD_SIZE"], os.environ["MASTER_ADDR"]
    loopback = address == "localhost" or address.startswith(("127.", "::1"))
    expected = int(os.environ.get("LOCAL_WORLD_SIZE", ranks if loopback else 1))
    deadline = time.monotonic() + START
    while (found := _count_ranks(started, _script(own))) < expected and time.monotonic() < deadline:
        time.sleep(0.2)
    return found, expected


def _count_ranks(environment: dict[str, str], script: str) -> int:
    """The number of processes that run ``script`` and share the group of ``environment``, each with another rank."""
    shared = ("WORLD_SIZE", *RENDEZVOUS)
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or belongs to another user
            other = process.environ()
            if all(other.get(name) == environment.get(name) for name in shared) and _script(process) == script:
                found.add(other.get("RANK"))
    return len(found)


def _script(process: psutil.Process) -> str:
    """The script or module of a Python process."""
    return next((word for word in process.cmdline()[1:] if not word.startswith("-")), "")
