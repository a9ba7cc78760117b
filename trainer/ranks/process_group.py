"""The process group of a run: joining it, wrapping the networks, and small collectives beside the training step."""

from __future__ import annotations

import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from torch import nn

from shards.common.names import printable
from shards.common.urls import redact
from trainer.config import Config
from trainer.gan.kernels.sync_batchnorm import synchronise
from trainer.gan.optimizer import Tensors
from trainer.gan.state import State
from trainer.ranks.launch import Launch
from trainer.ranks.rendezvous import connect_store

READY, LATE, STOP = range(3)
POLL = 0.0005  # seconds
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their bytes


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
    networks = (state.generator, state.discriminator)
    if accelerator.num_processes > 1 and sync_bn:
        # On GPUs of its own, because small exchanges would wait behind the buckets of gradients in the default one.
        group: Any = dist.new_group() if accelerator.device.type == "cuda" else None
        for network in networks:
            synchronise(network, group)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated")  # accelerate has no other way
        # The networks are on the device; with placement, accelerate would import DTensor, which takes 4 s.
        generator, discriminator = accelerator.prepare(*networks, device_placement=[False, False])
    return generator, discriminator


class StopVote:
    """Makes all ranks stop before the same step when any of them has to.

    Every rank must vote before every step, with the step's data in its hands, and equally often during an evaluation,
    without them. A vote is an all-reduce of one byte over gloo on the CPU. It starts before one step and is read before
    the next, so that no rank waits for it and no device is synchronised. Only if the data of the next step are late on
    some rank, all wait there for a second vote: a rank that began the step would be stuck in its collectives.
    """

    def __init__(self, ranks: int) -> None:
        # Any: torch types a group as an int too, which stands for ranks outside of it.
        self._group: Any = dist.new_group(backend="gloo") if ranks > 1 else None
        self._vote = torch.full((1,), LATE, dtype=torch.uint8)
        self._work: dist.Work | None = None

    def vote(self, stop: bool, ready: bool = True, waiting: Callable[[], object] = lambda: None) -> bool:
        """Whether all ranks stop before this step; with one rank, ``stop`` itself.

        It is true if any rank voted ``stop`` in the previous call; if some rank was not ``ready`` then, in this call.
        ``ready`` says that this rank has the data of the next step. ``waiting`` is called about twice a second while
        other ranks are waited for.
        """
        if self._group is None:
            return stop
        if self._result(waiting) == LATE:
            self._cast(STOP if stop else READY)
            self._result(waiting)
        result = self._vote.item() == STOP
        self._cast(STOP if stop else READY if ready else LATE)
        return result

    def _cast(self, vote: int) -> None:
        self._vote.fill_(vote)
        self._work = dist.all_reduce(self._vote, dist.ReduceOp.MAX, group=self._group, async_op=True)

    def _result(self, waiting: Callable[[], object]) -> int:
        if self._work is not None:
            polls = 0
            while not self._work.is_completed():  # wait() would keep Python from its signal handlers
                time.sleep(POLL)
                polls += 1
                if polls % round(0.5 / POLL) == 0:
                    waiting()
            self._work.wait()
        return int(self._vote.item())

    def restart(self) -> None:
        """Forget the votes on the next step, because all ranks go on with another one, whose data are not read yet."""
        self.close()
        self._work = None
        self._vote.fill_(LATE)

    def close(self) -> None:
        """Wait for the pending vote. All ranks must have voted equally often."""
        if self._work is not None:
            self._work.wait()


def check_equal(accelerator: Accelerator, tensors: Mapping[str, Tensors], step: int, position: int) -> None:
    """Compare fingerprints of ``tensors`` over all ranks, in one small gather.

    Raises ``RuntimeError``, which names the groups, if a bug or a broken device made the ranks differ. This would go
    unnoticed into the checkpoints, which hold rank 0's weights only.
    """
    if accelerator.num_processes == 1:
        return
    progress = torch.tensor([step, position], device=accelerator.device)
    gathered = accelerator.gather(torch.cat([progress, fingerprints(tensors)])[None])
    unequal = (gathered != gathered[0]).any(dim=0).tolist()
    names = [name for name, differs in zip(["step", "position", *tensors], unequal, strict=True) if differs]
    if names:
        raise RuntimeError(f"The ranks drifted apart by step {step}, in {', '.join(names)}. No checkpoint was written.")


def share_buffers(network: nn.Module, accelerator: Accelerator) -> None:
    """Replace the buffers of ``network`` by copies of rank 0's. Every rank must call it."""
    if accelerator.num_processes == 1:
        return
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            copy = buffer.clone()
            dist.broadcast(copy, 0)
            setattr(module, name, copy)


def fingerprints(tensors: Mapping[str, Tensors]) -> torch.Tensor:
    """Fingerprints of the groups in ``tensors``: int64 of shape (groups,), on the tensors' device.

    Each is the sum of a group's words, weighted with odd numbers that differ within a tensor, so that it changes when a
    word changes or two words swap.
    """
    totals = []
    for group in tensors.values():
        words = [tensor.view(INTEGERS[tensor.element_size()]).flatten().long() for tensor in group.values()]
        sums = [(word * torch.arange(1, 2 * len(word), 2, device=word.device)).sum() for word in words]
        # Odd weights again: a factor of two would shift the sign of a float64 out of the sum.
        totals.append(torch.stack([total * (2 * number + 1) for number, total in enumerate(sums)]).sum())
    return torch.stack(totals)


def describe_environment(accelerator: Accelerator) -> dict[str, Any]:
    """Versions, hosts, devices and command of the run for its folder and its board. Every rank must call it."""
    cuda = accelerator.device.type == "cuda"
    device = torch.cuda.get_device_name(accelerator.device) if cuda else platform.machine() + " CPU"
    gathered: list[tuple[str, str]] = gather_object([(platform.node(), device)])
    return {
        "ranks": accelerator.num_processes,
        "hosts": sorted({host for host, _ in gathered}),
        "devices": sorted({name for _, name in gathered}),
        "precision": accelerator.mixed_precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": version("accelerate"),
        "cuda": torch.version.cuda if cuda else None,
        "command": printable(shlex.join(redact(word) for word in sys.argv)),
    }
