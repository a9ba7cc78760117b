"""The iteration recorded once as a CUDA graph and replayed: the host launches one graph in place of a thousand kernels.

(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from trainer.gan.step import Metrics, Step

WARM_UP = 11
"""Steps before the recording: libraries choose their kernels and take their workspaces, the scaler its tensors."""

Work = Callable[[], Metrics]


class Iteration(Protocol):
    """What :class:`trainer.gan.step.Step` and :class:`Replay` do."""

    def __call__(self, reals: Sequence[torch.Tensor], latents: Sequence[torch.Tensor], *, report: bool) -> Metrics:
        """See :meth:`trainer.gan.step.Step.__call__`."""
        ...


class Replay:
    """A :class:`trainer.gan.step.Step` that gives the same weights, from buffers that stay where they are.

    Reports, whose gradient norms are other work, and the first steps are not replayed. The metrics of a replayed step
    are overwritten by the next. A batch must have the shape of the one before: in a run all have.
    """

    def __init__(self, step: Step, record: Callable[[Work], Work]) -> None:
        self._step, self._record = step, record
        self._seen = 0
        self._buffers: list[torch.Tensor] = []
        self._work: Work | None = None

    def __call__(self, reals: Sequence[torch.Tensor], latents: Sequence[torch.Tensor], *, report: bool) -> Metrics:
        self._seen += 1
        if report or self._seen <= WARM_UP:
            return self._step(reals, latents, report=report)
        if self._work is None:
            self._buffers = [torch.empty_like(batch) for batch in (*reals, *latents)]
            mine, count = self._buffers, len(reals)
            self._work = self._record(lambda: self._step(mine[:count], mine[count:], report=False))
        for buffer, batch in zip(self._buffers, (*reals, *latents), strict=True):
            buffer.copy_(batch, non_blocking=True)
        return self._work()


def cuda_graph(work: Work) -> Work:
    """``work`` as a graph. To record it is not to run it, so that no step is taken twice."""
    graph = torch.cuda.CUDAGraph()
    # Thread-local: another thread may be waiting for a checkpoint's copy meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        metrics = work()

    def replay() -> Metrics:
        graph.replay()
        return metrics

    return replay
