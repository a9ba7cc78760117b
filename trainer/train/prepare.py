"""Checks that a rank makes alone before the first collective: data, run folder, checkpoint, launch and precision."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.building.build import build
from shards.common.errors import InputError
from shards.common.urls import redact
from shards.format.manifest import MANIFEST, Manifest, Shard
from shards.loading.dataset import ShardDataset
from shards.sources.faces import Faces
from shards.storage.locate import CacheOptions, default_cache_folder
from trainer.config import OF_A_NODE, Config, flatten
from trainer.folder import checkpoint
from trainer.folder.load_run import describe_checkpoint
from trainer.folder.run_folder import RunFolder
from trainer.gan.networks import SIZES
from trainer.presets import PRESETS
from trainer.ranks.device import resolve_precision
from trainer.ranks.launch import Launch, check_launch
from trainer.train import plan
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

    Raises ``InputError`` if the data, the run folder or the launch does not fit the config.
    """
    precision, note = _check_launch(config, launch)
    locks.enter_context(folder.lock(launch.rank == 0))
    folder.check(config)
    if _uses_missing_default(preset, config):
        if launch.rank == 0:
            print(f"Drawing the embedded data set into {config.data.shards}, once.", file=sys.stderr, flush=True)
        build(Faces(), Path(config.data.shards))  # other ranks wait for the first one
    resumed = checkpoint.load_newest(folder.checkpoints)
    metadata: dict[str, Any] = resumed[2] if resumed else {}
    dataset = open_data(config, metadata)
    if resumed:
        _check_networks(config, resumed)
    left = config.remaining_steps(metadata.get("step", 0), metadata.get("position", 0), len(dataset))
    equal = {name: str(value) for name, value in flatten(config).items() if name not in OF_A_NODE}
    equal |= {"data set": dataset.manifest.digest[:16], "mixed precision": precision}
    equal["newest checkpoint"] = f"{resumed[0].name}, {checkpoint.digest(resumed[0])[:16]}" if resumed else "none"
    notes = _notes(config, dataset.manifest, launch, (precision, note), metadata, left)
    return Prepared(precision, notes, dataset, resumed, left), equal


def dry_run(preset: str, config: Config, launch: Launch, folder: RunFolder) -> None:
    """Print what would run. Raises ``InputError`` like :func:`prepare`."""
    precision, note = _check_launch(config, launch)
    folder.check(config)
    if _uses_missing_default(preset, config):
        metadata: dict[str, Any] = {}
        faces, shard = Faces(), Shard("not drawn yet", len(Faces()), 1, "")
        manifest = Manifest(faces.name, faces.format, 64, faces.channels, (shard,), "")
    else:
        resumed = checkpoint.load_newest(folder.checkpoints)
        metadata = resumed[2] if resumed else {}
        manifest = open_data(config, metadata).manifest
    step, position = metadata.get("step", 0), metadata.get("position", 0)
    if launch.rank == 0:
        left = config.remaining_steps(step, position, manifest.samples)
        notes = _notes(config, manifest, launch, (precision, note), metadata, left)
        print(plan.describe(config, manifest, launch, precision, position, left, notes), file=sys.stderr)
        print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))


def _check_launch(config: Config, launch: Launch) -> tuple[str, str | None]:
    check_launch(launch, config.batch_size)
    if launch.rank == 0:  # the only rank with a board: wandb takes half a second to import
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


def _check_networks(config: Config, resumed: checkpoint.Loaded) -> None:
    """Check before anything is written: the folder's config.yaml, which is compared too, may be lost."""
    path, tensors, metadata = resumed
    try:
        describe_checkpoint(config, metadata, tensors)
    except (LookupError, ValueError) as error:
        raise InputError(
            f"{path} holds other networks: {metadata.get('networks')}. Give their --model flags to resume that run, or "
            "another --out to start a new one."
        ) from error


def _uses_missing_default(preset: str, config: Config) -> bool:
    """Whether the run trains on the embedded data set and that does not exist yet."""
    embedded = PRESETS["faces"][1].data.shards
    return preset == "faces" and config.data.shards == embedded and not (Path(embedded) / MANIFEST).exists()


def open_data(config: Config, metadata: dict[str, Any]) -> ShardDataset:
    """Open the data set in the order of the run whose checkpoint stored ``metadata``.

    Raises:
        InputError: the data set is missing, incomplete, too small, of an unsupported size, or not the one of that run.
    """
    dataset = ShardDataset(
        config.data.shards,
        seed=config.seed,
        lanes=metadata.get("lanes", config.batch_size),
        block=metadata.get("block"),
        flip=config.data.flip,
        keys=config.data.audit is not None,
        strict=config.data.strict,
        cache=CacheOptions(config.data.cache or default_cache_folder(), int(config.data.cache_gb * 2**30)),
    )
    manifest, shown = dataset.manifest, redact(config.data.shards)
    if manifest.size not in SIZES:
        raise InputError(
            f"The images in {shown} are {manifest.size} pixels wide; networks exist for "
            f"{', '.join(map(str, SIZES))}. Build with --size 64."
        )
    if manifest.samples < config.batch_size:
        raise InputError(
            f"{shown} holds {manifest.samples} samples, fewer than one batch of {config.batch_size}. "
            "Give a smaller --batch-size or more data."
        )
    if metadata and metadata["manifest"] != manifest.digest:
        raise InputError(
            f"{shown} is not the data set that the run in {config.out} was started on: now "
            f"{manifest.summary}, then {metadata['data']}. Give the old data, or another --out for a new run."
        )
    return dataset
