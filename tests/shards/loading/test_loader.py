from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shards.common.errors import InputError
from shards.loading.dataset import Batch, ShardDataset
from shards.loading.loader import Ring, batches, normalise
from tests.support.launching import run
from tests.support.make import key, make_shards, numbers
from trainer.gan.noise import LATENT, latents
from trainer.gan.philox import Normals

SAMPLES = 50


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardDataset:
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, samples=SAMPLES)
    return ShardDataset(folder, seed=4, lanes=12, flip=True, keys=True)


@pytest.fixture
def broken(tmp_path: Path) -> ShardDataset:
    make_shards(tmp_path, samples=SAMPLES)
    path = tmp_path / "shard-00001.tar"
    path.write_bytes(path.read_bytes().replace(b"\xff\x1e\x00\x00\x00", b"\xff\x1e\x01\x00\x00"))  # sample 30
    return ShardDataset(tmp_path, seed=4, lanes=12)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def take(stream: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(stream, count))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_and_workers_do_not_change_the_stream(dataset: ShardDataset, ranks: int, workers: int) -> None:
    count, size, start = 7, 12, 31
    parts = []
    for rank in range(ranks):
        stream = batches(dataset, position=start, batch_size=size, rank=rank, ranks=ranks, workers=workers)
        with closing(stream):
            parts.append(take(stream, count))
    whole = dataset.__getitems__(range(start, start + count * size))
    for number, row in enumerate(zip(*parts, strict=True)):
        rows = slice(number * size, (number + 1) * size)
        assert [part.position for part in row] == [start + rows.start + r * size // ranks for r in range(ranks)]
        assert torch.equal(torch.cat([part.images for part in row]), whole.images[rows])
        assert sum((part.keys for part in row), ()) == whole.keys[rows]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("parts", [3, 12])
def test_parts_of_a_batch_are_shared_by_the_ranks(dataset: ShardDataset, parts: int, workers: int) -> None:
    """So that each holds the same images on any number of ranks."""
    size, start, count, shares = 24, 31, 3 * parts, []
    for rank in range(2):
        stream = batches(dataset, position=start, batch_size=size, parts=parts, rank=rank, ranks=2, workers=workers)
        with closing(stream):
            shares.append(take(stream, count))
    for number, row in enumerate(zip(*shares, strict=True)):
        whole = dataset.__getitems__(range(start + number * size // parts, start + (number + 1) * size // parts))
        assert torch.equal(torch.cat([share.images for share in row]), whole.images)
        assert row[0].position == whole.position


def test_more_parts_than_a_socket_holds_requests(dataset: ShardDataset) -> None:
    with closing(batches(dataset, position=0, batch_size=4096, parts=4096, workers=1)) as stream:
        assert [part.position for part in take(stream, 3)] == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_beside_the_images_do_not_depend_on_ranks_and_workers(
    dataset: ShardDataset, workers: int, dtype: str
) -> None:
    """Bit for bit those that a training step drew itself."""
    numbers = Normals(seed=3, width=10, purpose=LATENT + 256, dtype=dtype)
    parts = []
    for rank in range(2):
        stream = batches(dataset, position=31, batch_size=12, rank=rank, ranks=2, workers=workers, companion=numbers)
        with closing(stream):
            parts.append(take(stream, 20))
    for number, row in enumerate(zip(*parts, strict=True)):
        wanted = latents(3, 31 + 12 * number, 12, 10, LATENT + 256).to(getattr(torch, dtype))
        assert torch.equal(torch.cat([part.numbers for part in row if part.numbers is not None]), wanted)
        assert all(torch.equal(part.images, dataset.__getitems__(range(part.position, part.position + 6)).images)
                   for part in row)  # fmt: skip


def test_workers_draw_numbers_without_torch() -> None:
    """Which would take them 5 s and 300 MB each."""
    done = run(words=[sys.executable, "-c", "import sys, trainer.gan.philox; sys.exit('torch' in sys.modules)"])
    assert done.returncode == 0, done.stderr


def test_the_copy_of_a_batch_begins_before_the_last_one_is_handed_out(
    dataset: ShardDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the workers have it. An error in it waits for its turn."""
    begun: list[int] = []
    start = Ring.start

    def noted(ring: Ring, slot: int) -> None:
        begun.append(slot)
        start(ring, slot)

    monkeypatch.setattr(Ring, "start", noted)
    with closing(batches(dataset, position=0, batch_size=4, workers=1)) as stream:
        next(stream)
        time.sleep(1)  # all slots are filled
        for number in range(1, 5):
            batch = next(stream)
            assert batch.followed and begun[-1] == number + 1
            assert torch.equal(batch.images, dataset.__getitems__(range(4 * number, 4 * number + 4)).images)
    assert sorted(begun) == sorted(set(begun)), "each batch is copied once"


def test_the_workers_are_named(dataset: ShardDataset) -> None:
    named: list[int] = []
    before = children()
    with closing(batches(dataset, position=0, batch_size=4, workers=2, started=named.extend)) as stream:
        next(stream)
        assert sorted(named) == sorted(child.pid for child in children() if child not in before)


@given(data=st.data(), ranks=st.integers(1, 5), share=st.integers(1, 9), position=st.integers(0, 500))
def test_every_start_gives_the_tail(
    dataset: ShardDataset, data: st.DataObject, ranks: int, share: int, position: int
) -> None:
    """As after a change of ranks and batch size in the middle of an epoch."""
    rank = data.draw(st.integers(0, ranks - 1))
    stream = batches(dataset, position=position, batch_size=ranks * share, rank=rank, ranks=ranks)
    for number, batch in enumerate(take(stream, 2)):
        first = position + number * ranks * share + rank * share
        assert batch.position == first
        assert torch.equal(batch.images, dataset.__getitems__(range(first, first + share)).images)


@pytest.mark.parametrize(("batch_size", "ranks"), [(10, 3), (0, 1), (-4, 2), (1, 2)])
def test_a_batch_that_does_not_divide_is_refused(dataset: ShardDataset, batch_size: int, ranks: int) -> None:
    with pytest.raises(ValueError, match=f"a batch of {batch_size} does not divide into 1 parts for .* {ranks} ranks"):
        next(batches(dataset, position=0, batch_size=batch_size, ranks=ranks))


def test_fewer_workers_than_none_are_refused(faces32: Path) -> None:
    with pytest.raises(ValueError, match="-1 workers"):
        next(batches(ShardDataset(faces32), position=0, batch_size=4, workers=-1))


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_leaves_the_global_random_generator_alone(dataset: ShardDataset, workers: int) -> None:
    before = torch.get_rng_state()
    with closing(batches(dataset, position=0, batch_size=4, workers=workers)) as stream:
        take(stream, 3)
    assert torch.equal(torch.get_rng_state(), before)


def read_until_error(dataset: ShardDataset, workers: int) -> tuple[list[int], str]:
    """The samples before the error, and its message."""
    seen: list[int] = []
    stream = batches(dataset, position=0, batch_size=5, workers=workers)
    with closing(stream), pytest.raises(InputError) as caught:
        seen.extend(number for batch in islice(stream, SAMPLES) for number in numbers(batch.images))
    return seen, str(caught.value)


def test_a_sample_that_cannot_be_read_is_the_same_line_from_a_worker(broken: ShardDataset) -> None:
    in_process, in_workers = read_until_error(broken, 0), read_until_error(broken, 2)
    assert in_process == in_workers
    assert f"'{key(30)}' of" in in_workers[1]
    assert "\n" not in in_workers[1]
    shards, rows = broken.order.lookup(np.arange(SAMPLES))
    assert len(in_workers[0]) == (shards * 20 + rows).tolist().index(30) // 5 * 5


def test_closing_leaves_no_process(dataset: ShardDataset) -> None:
    before = children()
    stream = batches(dataset, position=0, batch_size=4, workers=2)
    next(stream)
    assert len(children()) == len(before) + 2
    stream.close()
    assert children() == before


def test_workers_outlive_a_signal_to_all_processes(dataset: ShardDataset) -> None:
    before = set(children())
    with closing(batches(dataset, position=0, batch_size=4, workers=2)) as stream:
        take(stream, 2)  # one from each: both are up
        workers = set(children()) - before
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            for worker in workers:
                worker.send_signal(number)
        rest = take(stream, 20)
        assert set(children()) - before == workers
    assert [batch.position for batch in rest] == list(range(8, 88, 4))


def test_a_killed_worker_ends_the_stream_with_an_error(dataset: ShardDataset) -> None:
    """As by the system's out-of-memory killer."""
    before = set(children())
    with closing(batches(dataset, position=0, batch_size=4, workers=2)) as stream:
        take(stream, 2)
        (set(children()) - before).pop().kill()
        with pytest.raises(InputError, match=r"worker was killed by SIGKILL: out of memory.*Fewer --data.workers"):
            take(stream, 100)
    assert set(children()) == before


def test_workers_are_gone_with_their_parent(dataset: ShardDataset) -> None:
    """Even if it is killed: their connections close."""
    script = (
        "import sys, time; from pathlib import Path; from shards.loading.dataset import ShardDataset\n"
        "from shards.loading.loader import batches; import psutil\n"
        "stream = batches(ShardDataset(Path(sys.argv[1])), position=0, batch_size=4, workers=2); next(stream)\n"
        "print(*(child.pid for child in psutil.Process().children()), flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(dataset.reader.location.tars)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        parent.kill()
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_what_was_taken_stays_when_the_stream_goes_on(dataset: ShardDataset) -> None:
    with closing(batches(dataset, position=0, batch_size=5, workers=1)) as stream:
        early = take(stream, 30)
    assert [n for batch in early for n in numbers(batch.images)] == numbers(dataset.__getitems__(range(150)).images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalise_maps_bytes_onto_minus_one_to_one(dtype: torch.dtype) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    values = normalise(images, dtype)
    assert values.dtype == dtype
    assert values.shape == (1, 1, 16, 16)
    assert values.min() == values[0, 0, 0, 0] == -1
    assert values.max() == values[0, 0, 15, 15] == 1
    expected = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    assert (values.flatten().double() - expected).abs().max() < 4 * torch.finfo(dtype).eps


def test_normalise_moves_channels_without_moving_memory() -> None:
    images = torch.randint(256, (2, 8, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    values = normalise(images, torch.float32)
    assert values.shape == (2, 3, 8, 6)
    assert values.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(values[1, 2, 5, 4], images[1, 5, 4, 2] / 127.5 - 1)
    assert torch.equal(images, kept)


def test_the_memory_of_batches_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers limit /dev/shm, or have no temporary folder. A sandbox may lack memory files, and memory is finite."""
    folder = Mock(side_effect=tempfile.TemporaryFile)
    monkeypatch.setattr(tempfile, "TemporaryFile", folder)
    for calls in (0, 1):
        with closing(Ring((2, 3, 4, 4, 3), "uint8", torch.device("cpu"))) as ring:
            ring.array[1] = 7
            assert ring.take(1).shape == (3, 4, 4, 3) and ring.take(1).float().mean() == 7
        assert folder.call_count == calls
        monkeypatch.setattr(os, "memfd_create", Mock(side_effect=OSError(errno.ENOSYS, "no")))
    with pytest.raises(OSError, match="MiB of memory for batches"):
        Ring((1, 1, 1, 1, 1 << 62), "uint8", torch.device("cpu"))
