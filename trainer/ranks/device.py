"""What this process computes on: device, precision, threads. Decided before anything is shared between ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from shards.common.cores import available_cores
from shards.common.errors import InputError
from trainer.ranks import launcher


@dataclass(frozen=True)
class Launch:
    """What ``accelerate launch`` told this process, through the environment."""

    rank: int
    ranks: int
    local_ranks: int
    """Ranks on this machine."""
    cpu: bool
    """Train on the CPU, because there is no GPU or because it was asked for."""
    precision: str
    """``no``, ``bf16`` or ``fp16``: what the launcher asked for."""


def read_launch() -> Launch:
    """The launch of this process; started without a launcher it is rank 0 of 1."""
    environment = os.environ
    cpu = (
        environment.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes") or not torch.cuda.is_available()
    )
    ranks = int(environment.get("WORLD_SIZE", 1))
    return Launch(
        rank=int(environment.get("RANK", 0)),
        ranks=ranks,
        local_ranks=int(environment.get("LOCAL_WORLD_SIZE", ranks)),
        cpu=cpu,
        precision=environment.get("ACCELERATE_MIXED_PRECISION", "no"),
    )


def check_ranks(launch: Launch) -> None:
    """Raises ``InputError`` if ``accelerate launch``, our parent, was asked for other ranks than it started."""
    asked = launcher.asked_ranks()
    if asked and asked != launch.ranks:
        raise InputError(
            f"The launcher was asked for {asked} ranks and started {launch.ranks}: without --multi_gpu, or with "
            "--cpu, it starts one. GPUs: accelerate launch --multi_gpu --num_processes N. CPU ranks: "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N."
        )


def check_batch(batch_size: int, launch: Launch) -> None:
    """Raises ``InputError`` unless the global batch divides among the ranks."""
    if batch_size % launch.ranks:
        fitting = max(1, round(batch_size / launch.ranks)) * launch.ranks
        raise InputError(
            f"--batch-size {batch_size} does not divide among {launch.ranks} ranks; --batch-size {fitting} does."
        )


def resolve_precision(launch: Launch, dtype: str) -> tuple[str, str | None]:
    """The mixed precision to train in and, if it is not what the launcher asked for or could be faster, one line on
    why.

    Raises:
        InputError: the two contradict each other, or the device cannot do it at all.
    """
    asked = launch.precision
    if asked not in ("no", "bf16", "fp16"):
        raise InputError(f"Mixed precision {asked!r} is not supported: use no, bf16 or fp16.")
    if dtype == "float64":
        return "no", None if asked == "no" else f"--dtype float64 leaves mixed precision ({asked}) off."
    if asked == "fp16" and launch.cpu:
        raise InputError("fp16 needs a GPU. On the CPU use --mixed_precision bf16 or no.")
    if asked == "bf16" and not has_bf16(launch.cpu):
        return "no", "This device has no bf16 instructions and would emulate them far slower: training in float32."
    if asked == "no" and has_bf16(launch.cpu):
        hint = "--mixed_precision bf16 before trainer/run.py (or --config_file accelerate_config.yaml)"
        return "no", f"Training in float32. This device is about twice as fast in bf16: {hint}."
    return asked, None


def idle_gpus(launch: Launch) -> str | None:
    """One line on what to do, if this machine has GPUs that no rank uses."""
    found = 0 if launch.cpu else torch.cuda.device_count()
    if found <= launch.local_ranks:
        return None
    return f"{launch.local_ranks} of {found} GPUs in use; for all, launch with --multi_gpu --num_processes {found}."


def replays(launch: Launch) -> bool:
    """Whether the iteration can be recorded as a CUDA graph: with DDP's exchanges in it, it cannot."""
    return launch.ranks == 1 and not launch.cpu


def has_bf16(cpu: bool) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if not cpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def set_threads(launch: Launch, asked: int) -> int:
    """Give this rank its share of the machine's cores; returns the number of threads.

    The launcher sets OMP_NUM_THREADS=1 for every script it is not told more about, which on a CPU would leave all cores
    but one idle.
    """
    cores = available_cores()
    threads = asked or (max(1, cores // launch.local_ranks) if launch.cpu else 0)
    if threads:
        torch.set_num_threads(threads)
    if launch.cpu:
        torch.set_flush_denormal(True)  # Adam's averages of silent weights decay into denormals, 100 times slower
    return torch.get_num_threads()


def set_kernels(*, tf32: bool) -> None:
    """What a GPU may do: round the factors of float32 products if ``tf32`` (PyTorch's own default is yes, but in
    convolutions only), and try cuDNN's kernels once for each shape; all batches of a run have one.
    """
    precision = "tf32" if tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = True
