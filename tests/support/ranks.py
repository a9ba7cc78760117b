"""Real ranks for tests: processes with the environment that the launcher would give them, connected over gloo."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import socket
import sys
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

import torch

from benchmarks.study.job import NEEDED

PRELOADED = [*NEEDED, "torch._dynamo", "torchmetrics.functional.image", "trainer.gan.step",
             "trainer.ranks.process_group", "trainer.train.evaluation"]  # fmt: skip
"""Imported once, in the process that forks the ranks: each would need 5 s for it, 2 of them for DDP's torch._dynamo."""


@cache
def preloaded() -> ForkServerContext:
    """Starts processes with ``PRELOADED``. The process that forks them is the only one of a test process, and imports
    what is asked for at its start: whatever forks in a test asks here first, or ranks started later import it all anew.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    return context


def on_ranks(
    ranks: int, work: Callable[..., Any], *arguments: Any, threads: int = 1, gpu: bool = False, fresh: bool = False
) -> list[Any]:
    """Call ``work(*arguments)``, a function of a module, on ``ranks`` new ranks and return the result of each.

    Each rank has ``threads`` threads; with ``gpu``, all of them use the first GPU. Ranks are forked and share a hash
    seed, unless they are to be ``fresh``.
    """
    # CUDA does not survive a fork.
    context: Any = multiprocessing.get_context("spawn") if fresh or gpu else preloaded()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": str(not gpu).lower(), "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    processes, connections = [], []
    for rank in range(ranks):
        receiver, sender = context.Pipe(duplex=False)
        own = {**environment, "RANK": str(rank), "LOCAL_RANK": "0" if gpu else str(rank)}
        process = context.Process(target=_run_rank, args=(sender, own, work, arguments), daemon=True)
        process.start()
        sender.close()
        processes.append(process)
        connections.append(receiver)
    try:
        return [torch.load(io.BytesIO(receiver.recv_bytes()), weights_only=True) for receiver in connections]
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def _run_rank(
    sender: Connection, environment: dict[str, str], work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    if environment["ACCELERATE_USE_CPU"] == "false" and environment["WORLD_SIZE"] != "1":
        torch.distributed.init_process_group("gloo")  # NCCL requires a GPU for each rank
    file = io.BytesIO()  # by value: a tensor sent through a pipe is lost when its sender ends
    torch.save(work(*arguments), file)
    sender.send_bytes(file.getvalue())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train_here(words: list[str]) -> tuple[int, str]:
    """``trainer/run.py`` with ``words`` in this process, which is a rank: its exit code, and what it printed."""
    import trainer.run

    trainer.run.GRACE = 0.0
    sys.argv = ["trainer/run.py", *words]
    with contextlib.redirect_stderr(io.StringIO()) as said, warnings.catch_warnings():
        try:
            trainer.run.main()
        except SystemExit as ended:
            return int(ended.code or 0), said.getvalue()
    return 0, said.getvalue()
