"""How much memory a training takes, and what to do if there is not enough."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.config import Config
from trainer.gan.augmentation import draw
from trainer.gan.optimizer import Adam, Tensors
from trainer.gan.state import create_state
from trainer.gan.step import Step


@dataclass(frozen=True)
class Memory:
    """Bytes of the tensors of a rank in a training step, at the most at once."""

    state: int  # weights, their average, and Adam's two values a weight
    gradients: int
    activations: int  # the batch, and all that a backward pass needs or makes
    images: int  # that are processed at a time

    @property
    def total(self) -> int:
        return self.state + self.gradients + self.activations

    def __str__(self) -> str:
        return (
            f"{_size(self.total)} a rank: weights, average and Adam {_size(self.state)}, gradients "
            f"{_size(self.gradients)}, activations {_size(self.activations)} ({_size(self.activations / self.images)} "
            "an image)"
        )


def estimate_memory(config: Config, size: int, channels: int, ranks: int = 1, classes: int = 0) -> Memory:
    """The memory of a step on images (channels, size, size) of so many classes, in the type of the weights.

    It is counted, not measured: a step on the device ``meta`` makes the same tensors without values. Buffers inside of
    operations are not counted, those of oneDNN and cuDNN, nor is what the allocator keeps. Takes about a second.
    """
    rows, count = config.batch_size // ranks // config.accumulate, config.parts_per_step
    meta = torch.device("meta")
    state = create_state(config, size, channels, meta, classes=classes)
    own = sum(_bytes(tensors) for tensors in state.tensors().values())
    gradients = sum(_bytes(dict(each.named_parameters())) for each in (state.generator, state.discriminator))
    state = replace(state, generator_optim=_Frozen(state.generator), discriminator_optim=_Frozen(state.discriminator))
    step, dtype = Step(state, state.generator, state.discriminator, config), next(state.generator.parameters()).dtype
    with PeakMemory() as peak:
        for _ in range(2):  # in the second one, the gradients of the first are still there
            step(
                [torch.empty(rows, channels, size, size, dtype=dtype, device=meta) for _ in range(count)],
                [torch.empty(rows, config.model.z_dim, dtype=dtype, device=meta) for _ in range(count)],
                [draw(0, 0, rows).to(meta) for _ in range(count)] if config.augment.names else [],
                [torch.zeros(rows, dtype=torch.int64, device=meta) for _ in range(count)] if classes else [],
                report=True,
            )
    return Memory(own, gradients, max(0, peak.most - gradients), rows)


def advise(*, started: bool, parts: bool = True) -> str:
    """What to do if there is not enough memory. A run that is ``started`` keeps its networks, and with BatchNorm the
    number of parts of its batches, so that ``parts`` is false; its next start would refuse others.
    """
    if not started:
        return "Raise --accumulate, or lower --batch-size, --model.features-g or --model.features-d"
    if parts:
        return "Raise --accumulate, or lower --batch-size; smaller networks need another --out"
    return "Lower --batch-size; another --accumulate or smaller networks need another --out"


class _Frozen(Adam):
    """Its kernel allocates nothing, and does not exist for tensors without values."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(network, 0.0, (0.0, 0.0))

    def step(self) -> None:
        pass


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations return inside of it, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}  # which views and in-place operations return
        for storage in _storages(out):
            if id(storage) not in given and id(storage) not in self._alive:
                self._count(storage)
        self.most = max(self.most, self.now)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def free(_: object) -> None:
            self.now -= size
            del self._alive[key]

        self.now += size
        self._alive[key] = weakref.ref(storage, free)


def _storages(tree: object) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _size(count: float) -> str:
    if count >= 1e10:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
