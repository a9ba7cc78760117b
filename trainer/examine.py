"""What a rank finds out alone, before it meets the others: data, checkpoint, precision, and every mistake in them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from shards.dataset import ShardDataset
from trainer import checkpoint, plan, tracking
from trainer.config import OF_A_NODE, Config, flatten
from trainer.data import build_default, open_data, planned_default, wants_default
from trainer.device import Launch, check_batch, check_ranks, resolve_precision
from trainer.folder import RunFolder


@dataclass(frozen=True)
class Found:
    """What a rank found before it met the others."""

    precision: str
    note: str | None
    dataset: ShardDataset
    resumed: checkpoint.Loaded | None
    left: int
    """Steps to go."""

    @property
    def facts(self) -> dict[str, Any]:
        """Of the checkpoint; empty at the start."""
        return self.resumed[2] if self.resumed else {}

    @property
    def changed(self) -> str | None:
        """A line on it, if the run was trained in another precision before."""
        before = self.facts.get("precision", self.precision)
        return None if before == self.precision else f"This run was trained with mixed precision {before!r} before."


def examine(
    preset: str, config: Config, launch: Launch, folder: RunFolder, held: ExitStack
) -> tuple[Found, dict[str, str]]:
    """Everything that a rank can check alone, and what the others must have found too.

    Raises:
        InputError: the data, the run folder or the launch does not fit the config.
    """
    precision, note = _fit(config, launch)
    held.enter_context(folder.locked_if(launch.rank == 0))
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
    return Found(precision, note, dataset, resumed, left), equal


def dry_run(preset: str, config: Config, launch: Launch, folder: RunFolder) -> None:
    """Print what would run.

    Raises:
        InputError: as :func:`examine`.
    """
    precision, note = _fit(config, launch)
    folder.check(config)
    if wants_default(preset, config):
        manifest, step, position = planned_default(), 0, 0
    else:
        resumed = checkpoint.load_newest(folder.checkpoints)
        facts = resumed[2] if resumed else {}
        manifest, step, position = open_data(config, facts).manifest, facts.get("step", 0), facts.get("position", 0)
    if launch.rank == 0:
        left = config.remaining_steps(step, position, manifest.samples)
        header = plan.describe(config, manifest, launch, precision, position, left)
        print(plan.with_notes(header, [note, *plan.notes(config, manifest, launch)]), file=sys.stderr)
        print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))


def _fit(config: Config, launch: Launch) -> tuple[str, str | None]:
    check_ranks(launch)
    check_batch(config.batch_size, launch)
    tracking.check(config.tracking)
    return resolve_precision(launch, config.dtype)
