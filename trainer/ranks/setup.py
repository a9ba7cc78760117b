"""One step on many ranks: accelerate's set-up, synchronised BatchNorm, and DDP around both networks."""

from __future__ import annotations

import warnings

import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from trainer.config import Config
from trainer.gan.kernels.sync_batchnorm import synchronise
from trainer.gan.state import State
from trainer.ranks.device import Launch
from trainer.ranks.meeting import meeting_place


def create_accelerator(config: Config, launch: Launch, precision: str) -> Accelerator:
    """Joins the ranks' process group, if there are several."""
    # One bucket on the CPU: its cores have nothing left to overlap an exchange with, and each costs its latency.
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # they are equal, and broadcast in place would break the two forwards of D's step
        bucket_cap_mb=1024 if launch.cpu else 25,
        gradient_as_bucket_view=True,
    )
    if launch.ranks > 1 and not dist.is_initialized():
        place = meeting_place(launch)
        backend = "gloo" if launch.cpu else "nccl"
        dist.init_process_group(backend, store=place, rank=launch.rank, world_size=launch.ranks)
    board = None if config.tracking.mode == "disabled" else config.tracking.board
    return Accelerator(
        cpu=launch.cpu, mixed_precision=precision, log_with=board, project_dir=config.out, kwargs_handlers=[ddp]
    )


def wrap(accelerator: Accelerator, state: State, *, sync_bn: bool) -> tuple[nn.Module, nn.Module]:
    """The networks of ``state`` for :class:`trainer.gan.step.Step`, with autocast, and with DDP on several ranks.
    Their BatchNorm is replaced, in ``state``, by one over all ranks if ``sync_bn``.
    """
    if accelerator.num_processes > 1 and sync_bn:
        synchronise(state.generator, accelerator.device)
        synchronise(state.discriminator, accelerator.device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated")  # accelerate knows no other
        # Both are on the device; asked to place them, accelerate would load DTensor: 4 s.
        generator, discriminator = accelerator.prepare(
            state.generator, state.discriminator, device_placement=[False, False]
        )
    return generator, discriminator
