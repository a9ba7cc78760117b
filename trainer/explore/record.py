"""Pictures as files, each with a JSON beside it that tells how to make it again. What is there already is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from shards.common.errors import InputError
from shards.common.files import atomic_write

if TYPE_CHECKING:
    from trainer.folder.load_run import LoadedRun

PACE = 60
"""Milliseconds that a frame of a GIF is shown."""
COLOURS = 256


def write(path: Path, image: Image.Image, loop: Sequence[Image.Image], facts: Mapping[str, Any]) -> None:
    """Write ``image`` to ``path`` (.png), the frames of ``loop`` if there are any beside it (.gif), then ``facts``
    (.json). Each file is whole or not there.

    Raises:
        InputError: they cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            image.save(file, "png", optimize=True)
        if loop:
            first, *others = _of_one_palette(loop)
            with atomic_write(path.with_suffix(".gif")) as file:
                first.save(file, "gif", save_all=True, append_images=others, duration=PACE, loop=0)
        with atomic_write(path.with_suffix(".json")) as file:
            file.write((json.dumps(facts, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}). Give another --out.") from error


def origin(run: Path, loaded: LoadedRun) -> dict[str, Any]:
    """Where a picture comes from, JSON-ready."""
    import torch

    channels, size = loaded.shape
    return {
        "run": str(run),
        "checkpoint": str(loaded.checkpoint),
        "checkpoint_sha256": loaded.digest,
        "step": loaded.step,
        "position": loaded.position,
        "weights": "average" if loaded.config.ema_images else "plain",
        "batchnorm": "eval",
        "latents": {"distribution": "normal", "mean": 0, "std": 1, "dimensions": loaded.config.model.z_dim},
        "image": {"channels": channels, "size": size},
        "torch": torch.__version__,
    }


def _of_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames in colours chosen for all of them: with a palette each, still parts would flicker."""
    width, height = frames[0].size
    film = Image.new("RGB", (width, height * len(frames)))
    for number, frame in enumerate(frames):
        film.paste(frame, (0, number * height))
    palette = film.quantize(COLOURS)
    return [frame.quantize(palette=palette) for frame in frames]
