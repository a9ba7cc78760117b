"""Describes a run in a few lines: the header of every run and of ``--dry-run``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import psutil
import torch

from shards.common.errors import InputError
from shards.common.processes import available_cores
from shards.common.urls import redact
from shards.format.manifest import Manifest
from trainer.config import Config, flatten
from trainer.gan.factory import create_networks
from trainer.gan.networks import Discriminator, Generator, has_batch_norm
from trainer.ranks.device import idle_gpus, supports_cuda_graphs
from trainer.ranks.launch import Launch

WITHOUT = {
    "mlp": ("norm_d", "coarse_d", "upsampling", "bn_init_mean", "sync_bn"),
    "residual": ("norm_d", "upsampling", "bn_init_mean", "sync_bn"),
}
"""Fields of the model that other kinds than dcgan have no use for."""


def checkpoint_bytes(config: Config, manifest: Manifest) -> int:
    """Size of one checkpoint: the generator, its average, the discriminator, and two values a weight for Adam."""
    g, d = _parameters(config, manifest)
    return (8 if config.dtype == "float64" else 4) * (2 * g + d + 2 * (g + d))


def disk_note(config: Config, manifest: Manifest) -> str | None:
    """One line if the disk may be too small for all checkpoints kept and one that is being written.

    Raises ``InputError`` if not even one checkpoint fits.
    """
    folder = next(path for path in (config.out, *config.out.absolute().parents) if path.is_dir())
    free, one = shutil.disk_usage(folder).free, checkpoint_bytes(config, manifest)
    if free < one:
        raise InputError(
            f"A checkpoint takes {one / 1e6:.0f} MB; {folder} has {free / 1e6:.0f} MB free. Make room, or "
            "lower --model.features-g and --model.features-d."
        )
    if free < one * (config.checkpoint.keep + 1):
        return f"{folder} has {free / 1e6:.0f} MB free, perhaps too little for the checkpoints (--checkpoint.keep 1?)."
    return None


def check_memory(config: Config, manifest: Manifest, launch: Launch) -> None:
    """Raise ``InputError`` if the host cannot hold a checkpoint in memory, on the CPU one for each rank.

    The system would kill the process without a word. Gradients and activations are not counted.
    """
    total = psutil.virtual_memory().total // (launch.local_ranks if launch.cpu else 1)
    if total < (needed := checkpoint_bytes(config, manifest)):
        raise InputError(
            f"The networks and Adam's state take {needed / 1e9:,.1f} GB of memory a rank, which has {total / 1e9:.1f}. "
            "Lower --model.features-g and --model.features-d."
        )


def check_penalties(config: Config, precision: str) -> None:
    """Raise ``InputError`` if the gradient penalties would not be right."""
    flags = config.penalty_flags
    if not flags:
        return
    without = " ".join(f"{flag} 0" for flag in flags)
    smallest = replace(config.model, z_dim=1, features_g=1, features_d=1)
    _, discriminator = create_networks(smallest, size=32, channels=1)  # of the same layers as for other images
    if has_batch_norm(discriminator):
        raise InputError(
            f"{flags[0]} needs the gradient of each image, and BatchNorm in the discriminator mixes those of a batch. "
            f"Give --model.norm-d none, or {without}."
        )
    if precision == "fp16":
        remedy = f"Launch with --mixed_precision bf16 or no, or give {without}."
        raise InputError(f"{flags[0]} overflows under fp16. {remedy}")


def check_accumulation(config: Config, manifest: Manifest, metadata: Mapping[str, Any]) -> None:
    """Raise ``InputError`` if a run with BatchNorm, whose checkpoint stored ``metadata``, gets other parts."""
    before = metadata.get("accumulate", 1)
    if metadata and before != config.accumulate and uses_batch_norm(config, manifest):
        raise InputError(
            f"--accumulate was {before} and is {config.accumulate}: BatchNorm normalises each part of a batch alone, "
            f"so it would be another run. Give --accumulate {before}, or another --out for a new run."
        )


def ignored_flags(preset: Config, config: Config) -> Iterator[str]:
    """A line for each flag of ``config`` that has no effect and changes the ``preset``, which may have its own."""
    usual, given, kind = flatten(preset), flatten(config), config.model.kind
    ignored = {f"model.{field}": f"on --model.kind {kind}" for field in WITHOUT.get(kind, ())}
    if not config.augment.names:
        ignored["augment.probability"] = "without --augment.policy"
    if not config.penalties:
        ignored["penalty.every"] = "without --penalty.r1 or --penalty.r2"
    for name, why in ignored.items():
        if given[name] != usual[name]:
            yield f"--{name.replace('_', '-')} has no effect {why}."


def _notes(config: Config, manifest: Manifest, launch: Launch) -> Iterator[str | None]:
    """Flags and launch options that will not have the effect the user may expect."""
    yield idle_gpus(launch)
    check_memory(config, manifest, launch)
    yield disk_note(config, manifest)
    if config.cuda_graphs and not supports_cuda_graphs(launch):
        yield "--cuda-graphs needs one GPU and has no effect here."
    if config.model.kind == "residual" and (config.loss != "relativistic" or {*config.penalties} != {"r1", "r2"}):
        yield "Residual networks may not converge without --loss relativistic, --penalty.r1 and --penalty.r2."
    if config.accumulate > 1 and uses_batch_norm(config, manifest):
        part = config.batch_size // config.accumulate
        yield f"BatchNorm normalises each of the {config.accumulate} parts of {part} images alone (--accumulate)."
    if config.threads * launch.local_ranks > (cores := available_cores()):
        yield f"--threads {config.threads} on {cores} cores: they will compete. With 0, ranks share the cores."


def _parameters(config: Config, manifest: Manifest) -> tuple[int, int]:
    try:
        networks = _create(config, manifest)
    except (RuntimeError, TypeError) as error:  # more bytes, or features, than 64 bits count
        raise InputError(
            "The networks are too large for any memory. Lower --model.features-g, --model.features-d and --model.z-dim."
        ) from error
    g, d = (sum(p.numel() for p in network.parameters()) for network in networks)
    return g, d


def uses_batch_norm(config: Config, manifest: Manifest) -> bool:
    """Whether one of the networks has BatchNorm."""
    return any(map(has_batch_norm, _create(config, manifest)))


def _create(config: Config, manifest: Manifest) -> tuple[Generator, Discriminator]:
    """The networks, without memory for their weights."""
    classes = len(manifest.classes) if config.model.conditional else 0
    with torch.device("meta"):
        return create_networks(config.model, manifest.size, manifest.channels, classes)


def describe(
    config: Config,
    manifest: Manifest,
    launch: Launch,
    precision: str,
    metadata: Mapping[str, Any],
    notes: Iterable[str],
) -> str:
    """Data, networks, ranks, precision, length, disk, ``notes`` and more on what the user may not expect, a line each.
    ``metadata`` is that of the checkpoint that the run resumes from, empty at the start.

    Raises ``InputError`` if no checkpoint fits on the disk or in memory, or the run had another number of parts.
    """
    position = metadata.get("position", 0)
    left = config.remaining_steps(metadata.get("step", 0), position, manifest.samples)
    before = metadata.get("precision", precision)
    changed = None if before == precision else f"This run was trained with mixed precision {before!r} before."
    every = (*notes, changed, *(_notes(config, manifest, launch) if left else ()))
    g, d = _parameters(config, manifest)
    check_accumulation(config, manifest, metadata)
    parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
    checkpoint = checkpoint_bytes(config, manifest) / 1e6
    arithmetic = f"{precision} mixed precision" if precision != "no" else config.dtype
    device = "CPU" if launch.cpu else "GPU"
    begin = f"from image {position:,}" if position else "from the start"
    return "\n".join(
        (
            f"data     {manifest.summary} at {redact(config.data.shards)}",
            f"networks generator {g:,} parameters, discriminator {d:,}, latents of {config.model.z_dim}"
            + (f", {len(manifest.classes):,} classes" if config.model.conditional else ""),
            f"compute  {launch.ranks} {device} rank{'s' * (launch.ranks > 1)}, {arithmetic}, "
            f"global batch {config.batch_size}{parts}, {config.d_steps} D step{'s' * (config.d_steps > 1)} per G step",
            f"length   {left:,} steps {begin}",
            f"disk     {checkpoint:.0f} MB a checkpoint, at most {checkpoint * (config.checkpoint.keep + 1):.0f} MB, "
            f"in {config.out}",
            *(f"note     {text}" for text in every if text),
        )
    )
