"""Real ranks for tests: processes that meet over gloo, as the launcher would start them."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch


def on_ranks(ranks: int, work: Callable[..., Any], *arguments: Any, threads: int = 1, gpu: bool = False) -> list[Any]:
    """What ``work(*arguments)``, a function of a module, returns on each of ``ranks`` ranks of ``threads`` threads, or
    all on the first GPU.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    crew = []
    for rank in range(ranks):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, rank, ranks, port, threads, gpu, work, arguments), daemon=True
        )
        process.start()
        theirs.close()
        crew.append((process, ours))
    try:
        return [torch.load(io.BytesIO(link.recv_bytes()), weights_only=True) for _, link in crew]
    finally:
        for process, _ in crew:
            process.join(10)
            process.kill()


def _serve(
    link: Connection,
    rank: int,
    ranks: int,
    port: int,
    threads: int,
    gpu: bool,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": "0" if gpu else str(rank), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": str(not gpu).lower(), "OMP_NUM_THREADS": str(threads),
    }  # fmt: skip
    torch.set_num_threads(threads)
    if gpu and ranks > 1:
        torch.distributed.init_process_group("gloo")  # NCCL wants a GPU for each rank
    file = io.BytesIO()  # by value: a tensor that is sent itself is gone with its sender
    torch.save(work(*arguments), file)
    link.send_bytes(file.getvalue())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
