"""Kill a run again and again, at random moments, and look at what is left.

    python -m tests.chaos --kills 50 --seed 1
    python -m tests.chaos --kills 20 --ranks 1

Each time SIGKILL hits a rank or the launcher: at some moment of the start or of the training, or while a checkpoint is
being written. The next start has another number of loader processes, and another batch size and number of ranks unless
``--ranks`` holds both. At the end every sample must have come exactly once per epoch, in the order of an undisturbed
run, and every checkpoint must be whole; with ``--ranks`` the weights must be those of an undisturbed run, bit by bit.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from shards.loading.dataset import ShardDataset
from tests.support.launching import RECIPE, SMALL, rows, start, status
from tests.support.make import make_shards
from tests.support.ranks import on_ranks, train_here
from trainer.folder import checkpoint

IMAGES, BATCH = 240, 12
REACH = 12
"""Steps of a start, at most, after which something is killed in the training."""
PATIENCE = 300.0


@dataclass(frozen=True)
class Arguments:
    """Kill a run at random moments and prove that nothing was lost."""

    kills: int = 6
    """How often."""
    seed: int = 0
    """Of the moments, the victims, the batches and the numbers of ranks."""
    ranks: int | None = None
    """Ranks of every start; at random 1 to 4 unless given."""
    recipe: bool = False
    """Train with lazy gradient penalties, augmentation and a schedule."""


class Mayhem:
    """One run and what befalls it."""

    def __init__(self, arguments: Arguments, work: Path) -> None:
        self.arguments, self.random = arguments, random.Random(arguments.seed)
        self.shards, self.out, self.work = work / "shards", work / "run", work
        self.deaths: Counter[str] = Counter()
        self.epochs = 3 + arguments.kills  # a kill comes few steps after the last, by and large
        make_shards(self.shards, samples=IMAGES, channels=3, shard_samples=50)

    def plan(self, out: Path) -> tuple[list[str], int, int]:
        """The flags of the next start, and on how many ranks and with which batch it is."""
        workers, ranks, batch = str(self.random.randrange(4)), self.arguments.ranks, BATCH
        if ranks is None:
            if checkpoint.checkpoints(out / "checkpoints"):  # the first one has fixed the lanes
                batch = self.random.choice((BATCH // 2, BATCH, 2 * BATCH))
            ranks = self.random.choice([ranks for ranks in (1, 2, 3, 4) if batch % ranks == 0])
        flags = ["--data.shards", str(self.shards), "--out", str(out), "--data.audit", str(out / "audit"),
                 "--epochs", str(self.epochs), "--checkpoint.every", "4", "--data.workers", workers, *SMALL,
                 "--batch-size", str(batch)]  # fmt: skip
        if self.arguments.recipe:
            flags += [*RECIPE, "--schedule.images", str(self.epochs * IMAGES), "--model.norm-d", "none"]
        return flags, ranks, batch

    def kill_once(self) -> str:
        """Start as a user does, kill something, and wait until all of it is gone; returns what happened.

        Raises:
            RuntimeError: the run was over before anybody could be killed; the moments are too far apart for its length.
        """
        moment = self.random.choice(("start", "training", "checkpoint"))
        flags, ranks, batch = self.plan(self.out)
        several = ("--multi_gpu", "--main_process_port", "0") if ranks > 1 else ()
        launcher = (*several, "--num_processes", str(ranks))
        process = start(*flags, launcher=launcher, env={"ACCELERATE_USE_CPU": "true"})
        self._await(moment, process)
        if process.poll() is not None:
            raise RuntimeError(f"nobody was left to kill: {process.communicate()[0]}")
        victims = [psutil.Process(process.pid), *_ranks(process)]
        number = self.random.randrange(len(victims))
        victims[number].kill()
        name = "a rank" if number else "the launcher"
        process.communicate(timeout=PATIENCE)
        _reap(self.out)
        self.deaths[f"{moment}, {name}"] += 1
        step = status(self.out)["step"] if (self.out / "status.json").exists() else 0
        return f"{ranks} ranks, batch {batch}, {moment}: killed {name}; status says step {step}"

    def finish(self, out: Path) -> None:
        """Undisturbed to the end; no launcher is needed for that."""
        flags, ranks, _ = self.plan(out)
        results = on_ranks(ranks, train_here, flags)
        assert all(code == 0 for code, _ in results) and status(out)["state"] == "done", results

    def check(self) -> None:
        """Every sample once per epoch and in its order; every checkpoint whole."""
        dataset, end = ShardDataset(self.shards, lanes=BATCH, keys=True), status(self.out)["position"]
        assert 0 <= end - self.epochs * IMAGES < 2 * BATCH  # the last batch may begin the next epoch
        expected = dataset.__getitems__(range(end)).keys
        found: dict[int, str] = {}
        for path in sorted((self.out / "audit").glob("rank-*.jsonl")):
            for row in rows(path):
                for place, key in enumerate(row["keys"]):
                    assert row["position"] + place not in found, f"position {row['position'] + place} came twice"
                    found[row["position"] + place] = key
        assert [found.get(position) for position in range(end)] == [*expected]
        assert len(found) == end
        for epoch in range(self.epochs):
            assert set(Counter(expected[epoch * IMAGES : (epoch + 1) * IMAGES]).values()) == {1}
        for path in checkpoint.checkpoints(self.out / "checkpoints"):
            checkpoint.load(path)
        steps = [row["step"] for row in rows(self.out / "metrics.jsonl")]
        assert steps == sorted(set(steps))

    def compare(self) -> None:
        """Bit by bit with a run that nobody touched."""
        self.finish(self.work / "calm")
        for name in ("generator", "discriminator", "average", "generator_optim", "discriminator_optim"):
            files = [sorted((out / "checkpoints").iterdir())[-1] / f"{name}.safetensors"
                     for out in (self.out, self.work / "calm")]  # fmt: skip
            assert files[0].read_bytes() == files[1].read_bytes(), name

    def _await(self, moment: str, process: subprocess.Popen[str]) -> None:
        """Until the moment comes, or the run is over."""
        seconds, steps, pause = self.random.uniform(0, 8), self.random.randint(1, REACH), self.random.uniform(0, 0.05)
        deadline = time.monotonic() + (seconds if moment == "start" else PATIENCE)
        left = self._partials()  # by what was killed before
        goal = status(self.out)["step"] if (self.out / "status.json").exists() else 0
        goal += steps if moment == "training" else 1
        while process.poll() is None and time.monotonic() < deadline:
            if moment == "checkpoint" and self._partials() - left:
                return
            now = status(self.out) if (self.out / "status.json").exists() else {"state": "", "step": 0}
            if moment != "checkpoint" and now["state"] == "running" and now["step"] >= goal:
                time.sleep(pause)  # anywhere within a step
                return
            time.sleep(0.001)

    def _partials(self) -> set[tuple[str, int]]:
        """Checkpoints that are being written, by name and inode."""
        found = set()
        for path in (self.out / "checkpoints").glob(".*.partial"):
            with suppress(FileNotFoundError):  # published meanwhile
                found.add((path.name, path.stat().st_ino))
        return found


def _ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if any("trainer/run.py" in word for word in child.cmdline())]
    except psutil.Error:  # gone meanwhile
        return []


def _reap(out: Path) -> None:
    """Wait until no process of the run is left: the next start must find its folder free."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        left = [p for p in psutil.process_iter(["cmdline", "status"]) if str(out) in (p.info["cmdline"] or ())]
        if not [p for p in left if p.pid != os.getpid() and p.info["status"] != psutil.STATUS_ZOMBIE]:
            return
        time.sleep(0.2)
    raise AssertionError(f"processes outlived the kill: {left}")


def main() -> None:
    """Kill, finish, check."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    arguments = tyro.cli(Arguments, description=__doc__)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        mayhem = Mayhem(arguments, Path(folder))
        for number in range(arguments.kills):
            print(f"{number + 1}/{arguments.kills} {time.monotonic() - began:.0f} s: {mayhem.kill_once()}", flush=True)
        mayhem.finish(mayhem.out)
        if arguments.ranks:
            mayhem.compare()
        mayhem.check()
    told = ", ".join(f"{what}: {count}" for what, count in sorted(mayhem.deaths.items()))
    print(f"{arguments.kills} kills in {time.monotonic() - began:.0f} s ({told}): nothing lost, nothing twice")


if __name__ == "__main__":
    main()
