"""What a run is trained on: versions, devices, hosts."""

from __future__ import annotations

import platform
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


def describe(accelerator: Accelerator) -> dict[str, Any]:
    """For the run's board, the same on all ranks. A collective: every rank must call it."""
    cuda = accelerator.device.type == "cuda"
    device = torch.cuda.get_device_name(accelerator.device) if cuda else platform.machine() + " CPU"
    places: list[tuple[str, str]] = gather_object([(platform.node(), device)])
    return {
        "ranks": accelerator.num_processes,
        "hosts": sorted({host for host, _ in places}),
        "devices": sorted({name for _, name in places}),
        "precision": accelerator.mixed_precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
    }
