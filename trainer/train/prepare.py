"""Checks that a rank makes alone before the first collective: data, run folder, checkpoint, launch and precision."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.building.build import build
from shards.common.errors import InputError
from shards.common.names import list_names
from shards.common.urls import redact
from shards.format.manifest import MANIFEST, Manifest, Shard
from shards.loading.dataset import ShardDataset
from shards.loading.labels import UnusableLabels
from shards.sources.faces import Faces
from trainer.config import OF_A_NODE, Config, flatten
from trainer.data import open_images
from trainer.folder import checkpoint
from trainer.folder.journal import ignore, rollbacks_to, warn_once
from trainer.folder.load_run import describe_checkpoint
from trainer.folder.run_folder import RunFolder
from trainer.gan.factory import outdated
from trainer.gan.networks import SIZES
from trainer.presets import PRESETS
from trainer.ranks.device import check_device, device_memory, resolve_precision
from trainer.ranks.launch import Launch, check_launch
from trainer.train import plan
from trainer.train.evaluation import feature_names, open_reals
from trainer.train.memory import advise, estimate_memory
from trainer.watch import tracker


@dataclass(frozen=True)
class Prepared:
    """What a run needs to start."""

    precision: str
    header: str  # describes the run
    dataset: ShardDataset
    resumed: checkpoint.Loaded | None  # the newest checkpoint
    step: int  # that the run starts from
    position: int  # that the run starts from
    rollbacks: int  # that led there
    steps_left: int
    reals: ShardDataset | None  # what the generator is compared with; None if the run has no evaluation
    unfinished: bool  # whether all steps are done, but the run did not end well: it was killed, or went wrong


def prepare(
    preset: str, config: Config, launch: Launch, folder: RunFolder, locks: ExitStack
) -> tuple[Prepared, dict[str, str]]:
    """All checks that need no other rank; returns also the values that must be equal on all ranks, by name.

    Raises ``InputError`` if the data, the run folder or the launch does not fit the config.
    """
    precision, notes = _check_launch(preset, config, launch)
    locks.enter_context(folder.lock(launch.rank == 0))
    folder.check(config)
    folder.check_scores()
    features = feature_names(config.evaluate)
    warn = warn_once if launch.rank == 0 else ignore
    if _uses_missing_default(preset, config):
        if launch.rank == 0:
            print(f"Drawing the embedded data set into {config.data.shards}, once.", file=sys.stderr, flush=True)
        build(Faces(), Path(config.data.shards))  # other ranks wait for the first one
    resumed, dataset = _resume(config, folder)
    metadata = resumed[2] if resumed else {}
    equal = {name: str(value) for name, value in flatten(config).items() if name not in OF_A_NODE}
    equal |= {"data set": dataset.manifest.digest[:16], "labels": dataset.labels_digest, "mixed precision": precision}
    digest = checkpoint.digest(resumed[0]) if resumed else ""
    equal["newest checkpoint"] = f"{resumed[0].name}, {digest[:16]}" if resumed else "none"
    header = plan.describe(config, dataset.manifest, launch, precision, metadata, notes)
    step, position = metadata.get("step", 0), metadata.get("position", 0)
    # The checkpoint that a rollback led to was written before it.
    rollbacks = max(metadata.get("rollbacks", 0), rollbacks_to(folder.rollbacks, step, warn))
    equal["rollbacks"] = str(rollbacks)
    left = config.remaining_steps(step, position, len(dataset))
    reals = open_reals(config, len(dataset), dataset.classes)
    equal["features of the scores"] = ", ".join(features) if reals else "none"
    unfinished = not left and not folder.is_done()
    equal["state"] = "unfinished" if unfinished else "done, or steps are left"
    return Prepared(precision, header, dataset, resumed, step, position, rollbacks, left, reals, unfinished), equal


def dry_run(preset: str, config: Config, launch: Launch, folder: RunFolder) -> None:
    """Print what would run. Raises ``InputError`` like :func:`prepare`."""
    precision, notes = _check_launch(preset, config, launch)
    folder.check(config)
    feature_names(config.evaluate)
    if _uses_missing_default(preset, config):
        faces, shard, resumed = Faces(), Shard("not drawn yet", len(Faces()), 1, ""), None
        manifest = Manifest(faces.name, faces.format, 64, faces.channels, (shard,), "")
    else:
        resumed, dataset = _resume(config, folder)
        manifest = dataset.manifest
    if launch.rank == 0:
        header = plan.describe(config, manifest, launch, precision, resumed[2] if resumed else {}, notes)
        print(header, file=sys.stderr)
        classes = len(manifest.classes) if config.model.conditional else 0
        memory = estimate_memory(config, manifest.size, manifest.channels, launch.ranks, classes)
        lower = ", less in mixed precision" if precision != "no" else ""
        print(f"memory   {memory}{lower}", file=sys.stderr)
        if memory.total > (room := device_memory(launch)):
            parts = not resumed or not plan.uses_batch_norm(config, manifest)
            advice = advise(started=folder.is_started(), parts=parts)
            print(f"note     The device has {room / 1e9:.1f} GB. {advice}.", file=sys.stderr)
        print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))


def _check_launch(preset: str, config: Config, launch: Launch) -> tuple[str, list[str]]:
    """Returns the mixed precision, and notes on what the user may not expect."""
    check_launch(launch, config.batch_size, config.accumulate)
    check_device(launch)
    if launch.rank == 0:  # the only rank with a board: wandb takes half a second to import
        tracker.check(config.tracking)
    precision, note = resolve_precision(launch, config.dtype)
    plan.check_penalties(config, precision)
    return precision, [*([note] if note else []), *plan.ignored_flags(PRESETS[preset][1], config)]


def _uses_missing_default(preset: str, config: Config) -> bool:
    """Whether the run trains on the embedded data set and that does not exist yet."""
    embedded = PRESETS["faces"][1].data.shards
    missing = preset == "faces" and config.data.shards == embedded and not (Path(embedded) / MANIFEST).exists()
    if missing and config.model.conditional:
        raise InputError(
            "--model.conditional needs labels, and the embedded faces have none. Give other --data.shards."
        )
    return missing


def _resume(config: Config, folder: RunFolder) -> tuple[checkpoint.Loaded | None, ShardDataset]:
    """The newest checkpoint in ``folder``, and the data set in the order of the run that wrote it.

    Raises ``InputError`` if they do not fit ``config``; config.yaml, which was compared before, may be lost.
    """
    resumed = checkpoint.load_newest(folder.checkpoints)
    if not resumed:
        return None, _open_data(config, {})
    path, tensors, metadata = resumed
    dataset = _open_data(config, metadata)
    if config.model.conditional:
        dataset.take_classes(tuple(metadata.get("networks", {}).get("classes", ())))
        _check_labels(config, metadata, dataset)
    try:
        networks = describe_checkpoint(config, metadata, tensors)
    except (LookupError, ValueError) as error:
        raise InputError(
            f"{path} holds other networks: {metadata.get('networks')}. Give their --model flags to resume that run, or "
            "another --out to start a new one."
        ) from error
    if outdated(networks):
        raise InputError(
            f"{path} has a coarse part of the discriminator (--model.coarse-d) that this version does not train. "
            "Resume the run with the version that started it, or give another --out to start a new one."
        )
    return resumed, dataset


def _check_labels(config: Config, metadata: dict[str, Any], dataset: ShardDataset) -> None:
    """Raises ``InputError`` if the labels are not those of the run whose checkpoint stored ``metadata``."""
    if metadata.get("labels", "") in ("", dataset.labels_digest):
        return
    before, now = metadata["networks"]["classes"], [*dataset.classes]
    what = "other labels than" if now == before else f"the classes {list_names(now)}, but had {list_names(before)}"
    raise InputError(
        f"{redact(config.data.shards)} has {what} when the run in {config.out} was started. Give the old data, or "
        "another --out for a new run."
    )


def _open_data(config: Config, metadata: dict[str, Any]) -> ShardDataset:
    """Open the data set in the order of the run whose checkpoint stored ``metadata``.

    Raises ``InputError`` if it is missing, incomplete, too small, of an unsupported size, or not that of the run.
    """
    try:
        dataset = open_images(
            config.data,
            seed=config.seed,
            lanes=metadata.get("lanes", config.batch_size),
            block=metadata.get("block"),
            keys=config.data.audit is not None,
            strict=config.data.strict,
            labels=config.model.conditional,
        )
    except UnusableLabels as error:
        raise InputError(f"--model.conditional needs a class for each image. {error}") from error
    manifest, shown = dataset.manifest, redact(config.data.shards)
    if len(dataset.classes) == 1:
        raise InputError(f"All images in {shown} are of one class. Train without --model.conditional.")
    if not metadata and dataset.empty_classes:
        raise InputError(
            f"{shown} has no image of the class{'es' * (len(dataset.empty_classes) > 1)} "
            f"{list_names(dataset.empty_classes)}, which would never be trained. Build it with images of all classes."
        )
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
