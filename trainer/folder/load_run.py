"""A run's networks out of its newest whole checkpoint, ready to draw and to judge. Needs no data and opens no tar."""

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
    """What a run had learnt by one checkpoint. The networks are on the CPU, in ``eval`` mode, and ask for no gradients.

    ``eval``: BatchNorm takes its running statistics, so that an image does not depend on those drawn beside it.
    """

    config: Config
    checkpoint: Path
    step: int
    position: int
    generator: Generator
    """The averaged one, if the run keeps an average."""
    discriminator: Discriminator
    shape: tuple[int, int]
    """(channels, height and width in pixels) of the images."""
    facts: dict[str, Any]
    """What the checkpoint says beside its tensors. In memory, as all of this is: of a run that goes on, the folder may
    be removed at any time."""
    digest: str
    """SHA-256 (hex) of the checkpoint."""


def load_run(run: Path, checkpoint: Path | None = None) -> LoadedRun:
    """The run in the folder ``run`` as of ``checkpoint``, or of its newest whole one. Nothing is unpickled.

    Raises:
        InputError: no such folder, not a run, no checkpoint in it, or none that is whole and of these networks.
    """
    config = _read_config(run)
    if checkpoint is None:
        found = checkpoints.load_newest(RunFolder(run).checkpoints)
        if found is None:
            hint = "`touch STOP` in it saves one and ends the run, which the same command continues."
            raise InputError(
                f"{run} has no checkpoint yet; one comes every {config.checkpoint.every} steps and in the end."
                + (f" {hint}" if is_locked(run) else " Nobody trains in it: give its command again.")
            )
        checkpoint, tensors, facts = found
    else:
        checkpoint = _own(run, checkpoint)
        tensors, facts = _load(checkpoint)
    digest = checkpoints.digest(checkpoint)
    try:
        networks = facts["networks"] if "networks" in facts else _describe_unrecorded(config, tensors)
        size, channels = networks["size"], networks["channels"]
        if networks != describe_networks(config.model, size, channels):
            raise ValueError("the checkpoint records other networks")
        generator, discriminator = restore_networks(networks)
        # Assigned, not copied: the weights keep the dtype that they were trained in.
        generator.load_state_dict(tensors["average" if config.ema_images else "generator"], assign=True)
        discriminator.load_state_dict(tensors["discriminator"], assign=True)
        step, position = int(facts["step"]), int(facts["position"])
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{checkpoint} does not hold the networks that {run / 'config.yaml'} describes: it is of another run."
        ) from error
    for network in (generator, discriminator):
        network.eval().requires_grad_(False)
    return LoadedRun(config, checkpoint, step, position, generator, discriminator, (channels, size), facts, digest)


def _describe_unrecorded(config: Config, tensors: dict[str, Tensors]) -> dict[str, Any]:
    """The networks of a checkpoint from before 0.2, which recorded none and were always DCGAN's."""
    weights = tensors["discriminator"]
    size = 2 ** (max(int(name.split(".")[1]) for name in weights) + 2)
    return describe_networks(config.model, size, weights["blocks.0.0.weight"].shape[1])


def _own(run: Path, checkpoint: Path) -> Path:
    """``checkpoint``, or the one of that name, of the run in the folder ``run``: another run's may fit its networks."""
    if checkpoint.is_file():
        raise InputError(
            f"{checkpoint} is a file; a checkpoint is a folder such as checkpoints/step-000000500, of safetensors and "
            "JSON. Pickled weights (.pt, .pth, .ckpt) are never opened: they can run code."
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
        raise InputError(f"{path} is torn or foreign: {error}. Leave --checkpoint away for the newest.") from error


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
    """The inverse of :func:`trainer.config.flatten`. A field that an older run did not know keeps its default."""
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
