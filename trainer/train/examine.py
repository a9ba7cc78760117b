"""What a rank finds out alone, before it meets the others: data, checkpoint, precision, and every mistake in them."""

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
from trainer.watch import tracker as tracking


@dataclass(frozen=True)
class Found:
    """What a rank found before it met the others."""

    precision: str
    notes: list[str]
    """What the user should know of the launch, a line each."""
    dataset: ShardDataset
    resumed: checkpoint.Loaded | None
    left: int
    """Steps to go."""

    @property
    def facts(self) -> dict[str, Any]:
        """Of the checkpoint; empty at the start."""
        return self.resumed[2] if self.resumed else {}


def examine(
    preset: str, config: Config, launch: Launch, folder: RunFolder, held: ExitStack
) -> tuple[Found, dict[str, str]]:
    """Everything that a rank can check alone, and what the others must have found too.

    Raises:
        InputError: the data, the run folder or the launch does not fit the config.
    """
    precision, note = _fit(config, launch)
    held.enter_context(folder.lock(launch.rank == 0))
    folder.check(config)
    if wants_default(preset, config):
        build_default(config, shown=launch.rank == 0)
    resumed = checkpoint.load_newest(folder.checkpoints)
    facts: dict[str, Any] = resumed[2] if resumed else {}
    dataset = open_data(config, facts)
    left = config.remaining_steps(facts.get("step", 0), facts.get("position", 0), len(dataset))
    equal = {name: str(value) for name, value in flatten(config).items() if name not in OF_A_NODE}
    equal |= {"data set": dataset.manifest.digest[:16], "mixed precision": precision}
    equal["newest checkpoint"] = f"{resumed[0].name}, {checkpoint.digest(resumed[0])[:16]}" if resumed else "none"
    notes = _notes(config, dataset.manifest, launch, precision, note, facts, left)
    return Found(precision, notes, dataset, resumed, left), equal


def dry_run(preset: str, config: Config, launch: Launch, folder: RunFolder) -> None:
    """Print what would run.

    Raises:
        InputError: as :func:`examine`.
    """
    precision, note = _fit(config, launch)
    folder.check(config)
    if wants_default(preset, config):
        facts: dict[str, Any] = {}
        manifest = planned_default()
    else:
        resumed = checkpoint.load_newest(folder.checkpoints)
        facts = resumed[2] if resumed else {}
        manifest = open_data(config, facts).manifest
    step, position = facts.get("step", 0), facts.get("position", 0)
    if launch.rank == 0:
        left = config.remaining_steps(step, position, manifest.samples)
        header = plan.describe(config, manifest, launch, precision, position, left)
        notes = _notes(config, manifest, launch, precision, note, facts, left)
        print(plan.with_notes(header, notes), file=sys.stderr)
        print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))


def _fit(config: Config, launch: Launch) -> tuple[str, str | None]:
    check_ranks(launch)
    check_batch(config.batch_size, launch)
    tracking.check(config.tracking)
    return resolve_precision(launch, config.dtype)


def _notes(
    config: Config,
    manifest: Manifest,
    launch: Launch,
    precision: str,
    note: str | None,
    facts: dict[str, Any],
    left: int,
) -> list[str]:
    before = facts.get("precision", precision)
    changed = None if before == precision else f"This run was trained with mixed precision {before!r} before."
    return [each for each in (note, changed) if each] + (plan.notes(config, manifest, launch) if left else [])
