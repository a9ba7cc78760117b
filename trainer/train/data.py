"""The data set of a run: draws the embedded one on first use and checks that the data fit the run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from shards.building.build import build
from shards.common.errors import InputError
from shards.common.urls import redact
from shards.format.manifest import MANIFEST, Manifest, Shard
from shards.loading.dataset import ShardDataset
from shards.sources.faces import Faces
from shards.storage.locate import CacheOptions, default_cache_folder
from trainer.config import Config
from trainer.gan.networks import SIZES
from trainer.presets import PRESETS


def wants_default(preset: str, config: Config) -> bool:
    """Whether the run trains on the embedded data set and that does not exist yet."""
    shards = Path(config.data.shards)
    return (
        preset == "faces" and config.data.shards == PRESETS["faces"][1].data.shards and not (shards / MANIFEST).exists()
    )


def build_default(config: Config, *, shown: bool) -> None:
    """Draw the embedded data set; other ranks wait for the first one."""
    shards = Path(config.data.shards)
    if shown:
        print(f"Drawing the embedded data set into {shards}, once.", file=sys.stderr, flush=True)
    build(Faces(), shards)


def planned_default() -> Manifest:
    """The manifest of the embedded data set, for a dry run, which draws nothing."""
    faces = Faces()
    return Manifest(faces.name, faces.format, 64, faces.channels, (Shard("not drawn yet", len(faces), 1, ""),), "")


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
