"""Loads the networks of a run from a checkpoint. Needs only the run folder, no data."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from shards.common.errors import InputError
from trainer.config import Config, Model
from trainer.folder import checkpoint as checkpoints
from trainer.folder.journal import read_rollbacks
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import find_best, read_scores
from trainer.gan.factory import UnknownNetworks, describe_networks, outdated, restore_networks
from trainer.gan.networks import Discriminator, Generator
from trainer.gan.optimizer import Tensors


class DamagedCheckpoint(InputError):
    """A checkpoint that cannot be loaded. Others of its run may be whole."""

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem} {advice}".rstrip())
        self.problem = problem


@dataclass(frozen=True)
class LoadedRun:
    """One checkpoint of a run. The networks are on the CPU, in ``eval`` mode, without gradients."""

    config: Config
    checkpoint: Path
    step: int
    position: int
    generator: Generator  # the moving average, if the run has one
    discriminator: Discriminator
    shape: tuple[int, int]  # (channels, height and width in pixels) of the images
    metadata: dict[str, Any]  # the checkpoint's; in memory, because a running training may remove the checkpoint
    digest: str  # SHA-256 (hex) of the checkpoint
    classes: tuple[str, ...] = ()  # names of the classes, by their numbers; empty if the run is not class-conditional

    def is_replaced(self) -> bool:
        """Whether the training went back to before this checkpoint since it was loaded, and trains its step again."""
        with suppress(OSError):  # it is removed: by that, or because newer ones exist
            return checkpoints.digest(self.checkpoint) != self.digest
        rollbacks = read_rollbacks(RunFolder(self.checkpoint.resolve().parent.parent).rollbacks)
        known = self.metadata.get("rollbacks", 0)
        return any(row["step"] < self.step and row["rollbacks"] > known for row in rollbacks)


def load_run(run: Path, checkpoint: Path | None = None) -> LoadedRun:
    """Load ``checkpoint``, by default the newest complete one, of the run in the folder ``run``. Nothing is unpickled.

    ``checkpoint`` is a path, a name, or ``best`` for the whole one with the best score, which is then named on stderr.

    Raises ``InputError`` if there is no such run, or no complete checkpoint of its networks; ``DamagedCheckpoint`` if
    that is the fault of the one that was named.
    """
    folder = RunFolder(run)
    config = folder.read_config()
    newest = _load_chosen(run, checkpoint, config) if checkpoint else checkpoints.load_newest(folder.checkpoints)
    if newest is None:
        raise InputError(
            f"{run} has no checkpoint yet: it saves one every {config.checkpoint.every} steps, at its end, and when "
            "a file STOP in its folder stops it. If it was killed, repeat its command."
        )
    path, tensors, metadata = newest
    try:
        digest = checkpoints.digest(path)
        networks = describe_checkpoint(config, metadata, tensors)
        size, channels, classes = networks["size"], networks["channels"], tuple(networks["classes"])
        generator, discriminator = restore_networks(networks)
        # Assigned, so that the weights keep their dtype.
        generator.load_state_dict(tensors["average" if config.ema_images else "generator"], assign=True)
        weights = tensors["discriminator"]
        if outdated(networks):
            weights = {name: weight for name, weight in weights.items() if not name.startswith("coarse.")}
        discriminator.load_state_dict(weights, assign=True)
        step, position = int(metadata["step"]), int(metadata["position"])
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path} was removed meanwhile, as a training does with old checkpoints.") from error
    except UnknownNetworks as error:
        raise InputError(
            f"{path} has networks that this version of shardgan does not make: {error}. Use the version that trained "
            "them."
        ) from error
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(
            f"{path} does not hold the networks that {run / 'config.yaml'} describes; it belongs to another run."
        ) from error
    for network in (generator, discriminator):
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    shape = (channels, size)
    return LoadedRun(config, path, step, position, generator, discriminator, shape, metadata, digest, classes)


def describe_checkpoint(config: Config, metadata: dict[str, Any], tensors: dict[str, Tensors]) -> dict[str, Any]:
    """The networks that a checkpoint recorded. Fields of ``Model`` that its version did not have are the default.

    Raises ``ValueError`` if ``config`` describes others. An :func:`outdated` part of the discriminator counts as equal.
    """
    networks = metadata["networks"] if "networks" in metadata else _read_off(config.model, tensors["discriminator"])
    size, channels, classes = networks["size"], networks["channels"], networks.get("classes", [])
    networks = {**describe_networks(Model(), size, channels), **networks}
    expected = describe_networks(config.model, size, channels, classes)
    if outdated(networks):
        expected["coarse_version"] = networks["coarse_version"]
    if networks != expected or bool(classes) != config.model.conditional:
        raise ValueError("the checkpoint records other networks")
    return networks


def _read_off(model: Model, weights: Tensors) -> dict[str, Any]:
    """The networks of a checkpoint of version 0.1, which recorded none and knew one architecture."""
    size = 2 ** (max(int(name.split(".")[1]) for name in weights) + 2)
    model = replace(model, kind="dcgan", norm_d="batch", coarse_d=False, upsampling="transposed")
    return describe_networks(model, size, weights["blocks.0.0.weight"].shape[1])


def _load_chosen(run: Path, checkpoint: Path, config: Config) -> checkpoints.Loaded | None:
    """Load ``checkpoint``, a path or a name, from those of ``run``; another run's might fit the networks too."""
    if checkpoint == Path("best"):
        return _load_best(RunFolder(run), config)
    if checkpoint.is_file():
        raise InputError(
            f"{checkpoint} is a file; a checkpoint is a folder such as checkpoints/step-000000500. "
            "Pickled weights (.pt, .pth, .ckpt) are never opened, because they can run code."
        )
    folder = RunFolder(run).checkpoints
    found = [
        path
        for path in (checkpoint, folder / checkpoint)
        if path.is_dir() and path.resolve().parent == folder.resolve()
    ]
    if not found:
        names = ", ".join(path.name for path in checkpoints.checkpoints(folder)) or "none"
        raise InputError(f"{checkpoint} is no checkpoint of {run}, which has {names}.")
    try:
        return found[0], *checkpoints.load(found[0])
    except checkpoints.TornCheckpoint as error:
        raise DamagedCheckpoint(f"{found[0]} is damaged: {error}.", "Omit --checkpoint for the newest.") from error


def _load_best(folder: RunFolder, config: Config) -> checkpoints.Loaded | None:
    """Load the best checkpoint that is whole, and warn of better ones that are not; None if there is no checkpoint."""
    if not checkpoints.checkpoints(folder.checkpoints):
        return None
    scored = read_scores(folder.scores)
    results = scored
    while found := find_best(folder, results, config.evaluate.by):
        judge, result = found
        path = folder.checkpoints / result.checkpoint
        try:
            loaded = path, *checkpoints.load(path)
        except checkpoints.TornCheckpoint as error:
            warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
            results = [other for other in results if other.checkpoint != result.checkpoint]
        else:
            print(f"Using {result.checkpoint}, the best by {judge} ({result.scores[judge]:.4g}).", file=sys.stderr)
            return loaded
    raise InputError(
        f"{folder.path} has no scored checkpoint{'' if results is scored else ' that is whole'}. To score all: "
        f"python -m trainer.evaluate {folder.path} --checkpoint all"
    )
