"""Loads the networks of a run from a checkpoint. Needs only the run folder, no data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from shards.common.errors import InputError
from trainer.config import Config
from trainer.folder import checkpoint as checkpoints
from trainer.folder.run_folder import RunFolder, is_locked
from trainer.gan.factory import describe_networks, restore_networks
from trainer.gan.networks import Discriminator, Generator
from trainer.gan.optimizer import Tensors


@dataclass(frozen=True)
class LoadedRun:
    """One checkpoint of a run. The networks are on the CPU, in ``eval`` mode, without gradients."""

    config: Config
    checkpoint: Path
    step: int
    position: int
    generator: Generator
    """The moving average, if the run has one."""
    discriminator: Discriminator
    shape: tuple[int, int]
    """(channels, height and width in pixels) of the images."""
    metadata: dict[str, Any]
    """What the checkpoint stores besides tensors. In memory, because a running training may remove the checkpoint."""
    digest: str
    """SHA-256 (hex) of the checkpoint."""


def load_run(run: Path, checkpoint: Path | None = None) -> LoadedRun:
    """Load ``checkpoint``, by default the newest complete one, of the run in the folder ``run``. Nothing is unpickled.

    Raises:
        InputError: there is no such run, or no complete checkpoint of its networks.
    """
    config = _read_config(run)
    if checkpoint is None:
        newest = checkpoints.load_newest(RunFolder(run).checkpoints)
        if newest is None:
            hint = "A file STOP in it saves one and stops the run; the same command resumes it."
            raise InputError(
                f"{run} has no checkpoint yet; it saves one every {config.checkpoint.every} steps and at the end."
                + (f" {hint}" if is_locked(run) else " No process trains in it: run its command again.")
            )
        checkpoint, tensors, metadata = newest
    else:
        checkpoint = _own(run, checkpoint)
        tensors, metadata = _load(checkpoint)
    digest = checkpoints.digest(checkpoint)
    try:
        networks = metadata["networks"] if "networks" in metadata else _describe_unrecorded(config, tensors)
        size, channels = networks["size"], networks["channels"]
        if networks != describe_networks(config.model, size, channels):
            raise ValueError("the checkpoint records other networks")
        generator, discriminator = restore_networks(networks)
        # Assigned, so that the weights keep their dtype.
        generator.load_state_dict(tensors["average" if config.ema_images else "generator"], assign=True)
        discriminator.load_state_dict(tensors["discriminator"], assign=True)
        step, position = int(metadata["step"]), int(metadata["position"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{checkpoint} does not hold the networks that {run / 'config.yaml'} describes; it belongs to another run."
        ) from error
    for network in (generator, discriminator):
        network.eval().requires_grad_(False)
    return LoadedRun(config, checkpoint, step, position, generator, discriminator, (channels, size), metadata, digest)


def _describe_unrecorded(config: Config, tensors: dict[str, Tensors]) -> dict[str, Any]:
    """Describes the networks of a checkpoint of version 0.1, which recorded none and always had DCGAN's."""
    weights = tensors["discriminator"]
    size = 2 ** (max(int(name.split(".")[1]) for name in weights) + 2)
    return describe_networks(config.model, size, weights["blocks.0.0.weight"].shape[1])


def _own(run: Path, checkpoint: Path) -> Path:
    """Find ``checkpoint``, a path or a name, among those of ``run``; another run's might fit the networks too."""
    if checkpoint.is_file():
        raise InputError(
            f"{checkpoint} is a file; a checkpoint is a folder such as checkpoints/step-000000500. "
            "Pickled weights (.pt, .pth, .ckpt) are never opened, because they can run code."
        )
    folder = RunFolder(run).checkpoints
    for path in (checkpoint, folder / checkpoint):
        if path.exists() and path.resolve().parent == folder.resolve():
            return path
    there = ", ".join(sorted(path.name for path in folder.glob("step-*"))) or "none"
    raise InputError(f"{checkpoint} is no checkpoint of {run}, which has {there}.")


def _load(path: Path) -> tuple[dict[str, Tensors], dict[str, Any]]:
    if not (path / checkpoints.CHECKSUMS).is_file():
        raise InputError(f"{path} is no checkpoint: it holds no {checkpoints.CHECKSUMS}.")
    try:
        return checkpoints.load(path)
    except checkpoints.TornCheckpoint as error:
        raise InputError(f"{path} is torn or foreign: {error}. Omit --checkpoint for the newest.") from error


def _read_config(run: Path) -> Config:
    path = run / "config.yaml"
    if not run.is_dir():
        raise InputError(f"There is no run at {run}: no such folder. `accelerate launch trainer/run.py` makes one.")
    try:
        flat = yaml.safe_load(path.read_text())
        if not isinstance(flat, dict):
            raise TypeError("no names and values")
        config: Config = _unflatten(Config, flat)
    except FileNotFoundError:
        raise InputError(f"{run} is not a run folder: it holds no config.yaml.") from None
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not a run's config: {' '.join(str(error).split())}") from error
    return config


def _unflatten(kind: type, flat: dict[str, Any], prefix: str = "") -> Any:
    """The inverse of :func:`trainer.config.flatten`. A field that ``flat`` lacks keeps its default."""
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for entry in dataclasses.fields(kind):
        hint, name = hints[entry.name], prefix + entry.name
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            values[entry.name] = _unflatten(hint, flat, f"{name}.")
        elif name in flat:
            value = flat[name]
            is_path = Path in (hint, *get_args(hint)) and value is not None
            values[entry.name] = Path(value) if is_path else value
    return kind(**values)
