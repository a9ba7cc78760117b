"""The choice between matrix products and convolutions of a run that trains in bf16 on CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from shards.common.machine import describe_processor
from trainer.config import Config
from trainer.gan.kernels.choice import choose, measure
from trainer.gan.state import State


def choose_products(
    config: Config,
    accelerator: Accelerator,
    state: State,
    size: int,
    channels: int,
    recorded: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Let the layers of ``state`` compute products where these are faster, for images (channels, size, size), on all
    ranks alike. A collective.

    Rank 0 measures, unless a checkpoint ``recorded`` its choice on the same kind of machine. Returns what the next one
    records: the machine and the choice; nothing outside of bf16 on CPUs, where there is no choice.
    """
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        return {}
    rows = config.batch_size // accelerator.num_processes // config.accumulate
    shared = [dict(recorded)]
    if accelerator.is_main_process and recorded.get("machine") != (machine := describe_machine(rows)):
        choice = measure(state.generator, state.discriminator, size, channels, rows)
        shared = [{"machine": machine, "choice": choice}]
    broadcast_object_list(shared)
    choose(state.generator, state.discriminator, shared[0]["choice"])
    return shared[0]


def describe_machine(rows: int) -> dict[str, Any]:
    """What the times of a layer, and the last bits of its results, depend on: processor, threads, version and rows."""
    found = {name: value for name, value in torch.cpu.get_capabilities().items() if value is not False}
    threads = torch.get_num_threads()
    return {"processor": describe_processor(), **found, "threads": threads, "torch": torch.__version__, "rows": rows}
