"""What this process computes with: mixed precision, threads and kernels. Nothing here is shared between ranks."""

from __future__ import annotations

import os

import psutil
import torch

from shards.common.errors import InputError
from shards.common.processes import available_cores
from trainer.ranks.environment import CONFIG_HINT
from trainer.ranks.launch import Launch


def check_device(launch: Launch) -> None:
    """Raise ``InputError`` if ``ACCELERATE_TORCH_DEVICE``, which accelerate obeys, names no device of this launch."""
    name = os.environ.get("ACCELERATE_TORCH_DEVICE", "cpu" if launch.cpu else "cuda")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    gpus = 0 if launch.cpu else torch.cuda.device_count()
    if device.type != ("cpu" if launch.cpu else "cuda") or (gpus and (device.index or 0) >= gpus):
        raise InputError(
            f"ACCELERATE_TORCH_DEVICE is {name!r}, but this process has {f'{gpus} GPUs' if gpus else 'only the CPU'}. "
            "Unset it. CUDA_VISIBLE_DEVICES chooses a GPU, and ACCELERATE_USE_CPU=true the CPU."
        )


def resolve_precision(launch: Launch, dtype: str) -> tuple[str, str | None]:
    """The mixed precision to train in and, if the launcher requested another or a faster one exists, a note on it.

    Raises ``InputError`` if the device does not support the requested precision.
    """
    requested = launch.precision
    if requested not in ("no", "bf16", "fp16"):
        raise InputError(f"Mixed precision {requested!r} is not supported: use no, bf16 or fp16. {CONFIG_HINT}")
    if dtype == "float64":
        return "no", None if requested == "no" else f"--dtype float64 leaves mixed precision ({requested}) off."
    if requested == "fp16" and launch.cpu:
        raise InputError("fp16 needs a GPU. On the CPU use --mixed_precision bf16 or no.")
    if requested == "bf16" and not has_bf16(launch.cpu):
        return "no", "This device has no bf16 instructions and would emulate them far slower: training in float32."
    if requested == "no" and has_bf16(launch.cpu):
        hint = "--mixed_precision bf16 before trainer/run.py (or --config_file accelerate_config.yaml)"
        return "no", f"Training in float32. This device is about twice as fast in bf16: {hint}."
    return requested, None


def has_bf16(cpu: bool) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if not cpu:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def device_memory(launch: Launch) -> int:
    """Bytes of memory of this rank's GPU; on the CPU, its share of the host's."""
    if launch.cpu:
        return psutil.virtual_memory().total // launch.local_ranks
    return torch.cuda.get_device_properties(launch.rank % torch.cuda.device_count()).total_memory


def idle_gpus(launch: Launch) -> str | None:
    """A line that says how to use all GPUs of this machine, if some are idle."""
    gpus = 0 if launch.cpu else torch.cuda.device_count()
    if gpus <= launch.local_ranks:
        return None
    return f"{launch.local_ranks} of {gpus} GPUs in use; for all, launch with --multi_gpu --num_processes {gpus}."


def supports_cuda_graphs(launch: Launch) -> bool:
    """Whether an iteration can be captured as a CUDA graph: on one GPU only, because DDP's exchanges cannot."""
    return launch.ranks == 1 and not launch.cpu


def set_threads(launch: Launch, threads: int) -> None:
    """Use ``threads`` threads on this rank, or on a CPU for 0 its share of the cores."""
    # The launcher sets OMP_NUM_THREADS=1 by default, which would leave all but one core idle.
    if not threads and launch.cpu:
        threads = max(1, available_cores() // launch.local_ranks)
    if threads:
        torch.set_num_threads(threads)
    if launch.cpu:
        torch.set_flush_denormal(True)  # Adam's averages decay into denormals, which are 100 times slower


def set_kernels(*, tf32: bool) -> None:
    """On GPUs, compute float32 products in TF32 if ``tf32`` (PyTorch does so in convolutions only) and benchmark
    cuDNN's kernels once, because all batches of a run have one shape.
    """
    precision = "tf32" if tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = True
