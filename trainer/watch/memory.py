"""How much memory a rank holds."""

from __future__ import annotations

import psutil
import torch

WORKER = "shards.loading.worker"
"""In the command line of a loader's worker; a board's process is no part of the training."""


def memory(device: torch.device) -> dict[str, float]:
    """GiB: ``memory/host_gb``, resident in this process and its loader workers (what they share counts in each), and
    on CUDA ``memory/device_gb``, the most that tensors took so far.

    Costs a look at every process of the machine.
    """
    own = psutil.Process()
    resident = own.memory_info().rss
    for child in own.children():
        try:
            resident += child.memory_info().rss if WORKER in child.cmdline() else 0
        except psutil.Error:  # it ended meanwhile
            continue
    found = {"memory/host_gb": resident / 2**30}
    if device.type == "cuda":
        found["memory/device_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found
