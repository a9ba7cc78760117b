"""The training step as a CUDA graph: the host launches one graph instead of a thousand kernels.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import torch

from trainer.gan.step import Metrics, Step

WARM_UP = 11  # steps before the capture, in which libraries choose kernels and allocate workspaces

Work = Callable[[], Metrics]
Kind = tuple[str, ...]  # names of the penalties of a step


class Replay:
    """Runs a :class:`trainer.gan.step.Step` on static buffers and replays it after ``WARM_UP`` steps.

    Steps with penalties and steps without are recorded apart, each in memory of its own. Those with ``report`` are not
    replayed, because they compute gradient norms too. The next replay overwrites the metrics of the last one. All
    batches must have the same shape.
    """

    def __init__(self, step: Step, record: Callable[[Work], Work]) -> None:
        self._step, self._record = step, record
        self._seen: Counter[Kind] = Counter()
        self._buffers: list[list[torch.Tensor]] = []
        self._works: dict[Kind, Work] = {}

    def __call__(
        self,
        reals: Sequence[torch.Tensor],
        latents: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor] = (),
        labels: Sequence[torch.Tensor] = (),
        *,
        report: bool,
    ) -> Metrics:
        kind, inputs = self._step.due, (reals, latents, numbers, labels)
        self._seen[kind] += 1
        if report or self._seen[kind] <= WARM_UP:
            return self._step(*inputs, report=report)
        if not self._buffers:
            self._buffers = [[torch.empty_like(batch) for batch in batches] for batches in inputs]
        self._step.tune()
        for buffer, batch in zip(chain(*self._buffers), chain(*inputs), strict=True):
            buffer.copy_(batch, non_blocking=True)
        if kind not in self._works:
            self._works[kind] = self._record(lambda: self._step.update(*self._buffers, report=False))
        return self._works[kind]()


def cuda_graph(work: Work) -> Work:
    """Captures ``work`` as a CUDA graph, without running it, and returns its replay."""
    graph = torch.cuda.CUDAGraph()
    # Thread-local, because another thread may synchronise for a checkpoint during the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        metrics = work()

    def replay() -> Metrics:
        graph.replay()
        return metrics

    return replay
