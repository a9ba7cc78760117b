"""Checks that a rank makes alone before the first collective: data, run folder, checkpoint, launch and precision."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from shards.format.manifest import Manifest
from shards.loading.dataset import ShardDataset
from trainer.config import OF_A_NODE, Config, flatten
from trainer.folder import checkpoint
from trainer.folder.run_folder import RunFolder
from trainer.ranks.device import resolve_precision
from trainer.ranks.launch import Launch, check_batch, check_ranks
from trainer.train import plan
from trainer.train.data import build_default, open_data, planned_default, wants_default
from trainer.watch import tracker


@dataclass(frozen=True)
class Prepared:
    """What a run needs to start."""

    precision: str
    notes: list[str]
    """Advice about the launch and the flags, a line each."""
    dataset: ShardDataset
    resumed: checkpoint.Loaded | None
    """The newest checkpoint."""
    steps_left: int

    @property
    def step(self) -> int:
        """Step that the run starts from."""
        return int(self.resumed[2]["step"]) if self.resumed else 0

    @property
    def position(self) -> int:
        """Position that the run starts from."""
        return int(self.resumed[2]["position"]) if self.resumed else 0


def prepare(
    preset: str, config: Config, launch: Launch, folder: RunFolder, locks: ExitStack
) -> tuple[Prepared, dict[str, str]]:
    """All checks that need no other rank; returns also the values that must be equal on all ranks, by name.

    Raises:
        InputError: the data, the run folder or the launch does not fit the config.
    """
    precision, note = _check_launch(config, launch)
    locks.enter_context(folder.lock(launch.rank == 0))
    folder.check(config)
    if wants_default(preset, config):
        build_default(config, shown=launch.rank == 0)
    resumed = checkpoint.load_newest(folder.checkpoints)
    metadata: dict[str, Any] = resumed[2] if resumed else {}
    dataset = open_data(config, metadata)
    left = config.remaining_steps(metadata.get("step", 0), metadata.get("position", 0), len(dataset))
    equal = {name: str(value) for name, value in flatten(config).items() if name not in OF_A_NODE}
    equal |= {"data set": dataset.manifest.digest[:16], "mixed precision": precision}
    equal["newest checkpoint"] = f"{resumed[0].name}, {checkpoint.digest(resumed[0])[:16]}" if resumed else "none"
    notes = _notes(config, dataset.manifest, launch, (precision, note), metadata, left)
    return Prepared(precision, notes, dataset, resumed, left), equal


def dry_run(preset: str, config: Config, launch: Launch, folder: RunFolder) -> None:
    """Print what would run.

    Raises:
        InputError: as :func:`prepare`.
    """
    precision, note = _check_launch(config, launch)
    folder.check(config)
    if wants_default(preset, config):
        metadata: dict[str, Any] = {}
        manifest = planned_default()
    else:
        resumed = checkpoint.load_newest(folder.checkpoints)
        metadata = resumed[2] if resumed else {}
        manifest = open_data(config, metadata).manifest
    step, position = metadata.get("step", 0), metadata.get("position", 0)
    if launch.rank == 0:
        left = config.remaining_steps(step, position, manifest.samples)
        header = plan.describe(config, manifest, launch, precision, position, left)
        notes = _notes(config, manifest, launch, (precision, note), metadata, left)
        print(plan.with_notes(header, notes), file=sys.stderr)
        print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))


def _check_launch(config: Config, launch: Launch) -> tuple[str, str | None]:
    check_ranks(launch)
    check_batch(config.batch_size, launch)
    tracker.check(config.tracking)
    return resolve_precision(launch, config.dtype)


def _notes(
    config: Config,
    manifest: Manifest,
    launch: Launch,
    resolved: tuple[str, str | None],
    metadata: dict[str, Any],
    left: int,
) -> list[str]:
    precision, note = resolved
    before = metadata.get("precision", precision)
    changed = None if before == precision else f"This run was trained with mixed precision {before!r} before."
    return [each for each in (note, changed) if each] + (plan.notes(config, manifest, launch) if left else [])
