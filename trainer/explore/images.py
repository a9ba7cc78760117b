"""Writes samples as PNG files, one each: what the metrics of other tools read."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.processes import available_cores
from shards.common.progress import progress_bar
from trainer.gan.networks import Generator
from trainer.samples import fixed_labels, fixed_latents, generate, to_pixels

CHUNK = 64  # samples that the generator gets at a time, also where some exist already, so that this changes no rounding
AHEAD = 4  # chunks that wait to be encoded, for each thread
COMPRESSION = 1  # of zlib: at 64 pixels, files are 4 to 7 % larger than at the usual 6 and take a fifth less time
PNG = re.compile(r"[0-9]{9,}\.png")
SETTINGS = ("checkpoint_sha256", "weights", "seed", "truncation", "class")
"""Entries of a record that decide what the images are."""


def write_images(
    generator: Generator, folder: Path, count: int, record: Mapping[str, Any], chosen: int | None = None
) -> tuple[int, int]:
    """Writes samples 0 to ``count`` - 1 of ``generator`` into ``folder``, as ``000000000.png`` and so on, and returns
    how many samples it holds then, and how many of them were not there yet. ``record``, with the seed and the
    truncation, is written beside the folder, unless there is one of more samples. Samples of a class-conditional
    generator are all of the class ``chosen``, or of all classes in turn.

    The network runs on the device that it is on, while threads encode what it made before. Images are complete or
    absent, and after an interruption the next call writes those that are missing.

    Raises ``InputError`` if the folder holds other files, or the samples of other settings, or cannot be written.
    """
    try:
        _claim(folder, record)
        present = _present(folder)
        missing = set(range(count)) - present
        with progress_bar(count, count - len(missing)) as bar, ThreadPoolExecutor(available_cores()) as pool:
            waiting: deque[Future[int]] = deque()
            for first in sorted({number - number % CHUNK for number in missing}):
                latents = fixed_latents(record["seed"], CHUNK, generator.z_dim, first) * record["truncation"]
                labels = fixed_labels(CHUNK, generator.classes, first)
                if labels is not None and chosen is not None:
                    labels.fill_(chosen)
                pixels = to_pixels(generate(generator, latents, CHUNK, labels))
                images = {first + row: image for row, image in enumerate(pixels) if first + row in missing}
                waiting.append(pool.submit(_write, folder, images))
                while len(waiting) > AHEAD * available_cores():
                    bar.update(waiting.popleft().result())
            for chunk in waiting:
                bar.update(chunk.result())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Make room or correct the permissions, and repeat the "
            "command, which continues; or give another --out."
        ) from error
    return len(present) + len(missing), len(missing)


def _claim(folder: Path, record: Mapping[str, Any]) -> None:
    """Raises ``InputError`` if ``folder`` holds anything but samples of the same settings."""
    beside = folder.with_name(folder.name + ".json")
    if folder.exists() and any(folder.iterdir()):
        try:
            known = json.loads(beside.read_bytes())
            changed = [name for name in SETTINGS if known.get(name) != record[name]]
        except (AttributeError, OSError, ValueError) as error:
            raise InputError(f"{folder} holds other files. Give another --out.") from error
        if changed:
            raise _refusal(folder, known, record, changed)
        if known.get("images", 0) > record.get("images", 0):
            return
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(beside) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def _refusal(folder: Path, known: Mapping[str, Any], record: Mapping[str, Any], changed: Sequence[str]) -> InputError:
    """Of samples that differ from those of ``record`` in the settings ``changed``."""
    before, now = (Path(each.get("checkpoint", "")) for each in (known, record))
    what, more = f"another {' and '.join(name.removesuffix('_sha256') for name in changed)}", ""
    if changed == ["checkpoint_sha256"] and before != now:
        what = str(before)
        if before.parent == now.parent and before.is_dir():  # of the same run, which has a newer one now
            what, more = before.name, f"Add --checkpoint {before.name} to continue, or give"
    return InputError(f"{folder} holds samples of {what}. {more or 'Give'} another --out.")


def _present(folder: Path) -> set[int]:
    """Numbers of the images in ``folder``. One without bytes is left from a crash of the machine."""
    with os.scandir(folder) as entries:
        named = [entry for entry in entries if PNG.fullmatch(entry.name)]
        return {int(entry.name.removesuffix(".png")) for entry in named if entry.stat().st_size}


def _write(folder: Path, images: Mapping[int, np.ndarray]) -> int:
    """Writes images, uint8 (height, width, channels), by their numbers; without fsync, which would take most of the
    time.
    """
    for number, pixels in images.items():
        path = folder / f"{number:09d}.png"
        partial = path.with_suffix(".partial")
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        image.save(partial, "png", compress_level=COMPRESSION)
        partial.replace(path)
    return len(images)
