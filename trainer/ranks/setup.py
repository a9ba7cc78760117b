"""Sets up the process group and wraps the networks: accelerate, synchronised BatchNorm and DDP."""

from __future__ import annotations

import warnings

import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from trainer.config import Config
from trainer.gan.kernels.sync_batchnorm import synchronise
from trainer.gan.state import State
from trainer.ranks.launch import Launch
from trainer.ranks.rendezvous import connect_store


def create_accelerator(config: Config, launch: Launch, precision: str) -> Accelerator:
    """Create the accelerator; with several ranks, join their process group first."""
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # buffers are equal; an in-place broadcast would break the two forwards of D's step
        bucket_cap_mb=1024 if launch.cpu else 25,  # one bucket on the CPU, where nothing overlaps the exchange
        gradient_as_bucket_view=True,
    )
    if launch.ranks > 1 and not dist.is_initialized():
        backend = "gloo" if launch.cpu else "nccl"
        dist.init_process_group(backend, store=connect_store(launch), rank=launch.rank, world_size=launch.ranks)
    board = None if config.tracking.mode == "disabled" else config.tracking.board
    return Accelerator(
        cpu=launch.cpu, mixed_precision=precision, log_with=board, project_dir=config.out, kwargs_handlers=[ddp]
    )


def wrap(accelerator: Accelerator, state: State, *, sync_bn: bool) -> tuple[nn.Module, nn.Module]:
    """Wrap generator and discriminator of ``state`` with autocast and, on several ranks, with DDP.

    With ``sync_bn``, their BatchNorm layers are replaced in ``state`` by ones that normalise over all ranks.
    """
    if accelerator.num_processes > 1 and sync_bn:
        synchronise(state.generator, accelerator.device)
        synchronise(state.discriminator, accelerator.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated")  # accelerate has no other way
        # The networks are on the device; with placement, accelerate would import DTensor, which takes 4 s.
        generator, discriminator = accelerator.prepare(
            state.generator, state.discriminator, device_placement=[False, False]
        )
    return generator, discriminator
