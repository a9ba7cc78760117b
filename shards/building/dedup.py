"""Near-duplicates: found by a perceptual hash before a build, left out of it, and listed.

As in the DCGAN paper (arXiv 1511.06434, section 4.1), which did it to LSUN's bedrooms so that the generator cannot
learn by heart what comes often: equal codes are duplicates, so that the work grows with the number of images and not
with that of pairs. The code is not the paper's, of an autoencoder trained for it, but the 64 bits of a pHash: which of
the lowest frequencies lie above their median. It sees no colour and no contrast, and 61 of 2,000 drawn faces share
another's. So images of one code must also be of one colour in each of 4x4 cells, or both stay.

Of 120 bedrooms and 600 CelebA faces, 79 to 99 % had the very same code after another JPEG or WebP quality or another
size, and no two different ones did. Cells then differed by at most 3 of 255; those of the faces by 10 to 75.

The hashes lie in hidden files in the build's folder, one per part, until the manifest is written: what was hashed once
is not hashed again.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from shards.building.recipe import Recipe
from shards.building.worker import Work
from shards.building.worker_pool import run_crew
from shards.common.files import atomic_write
from shards.common.progress import Progress
from shards.sources.pixels import BadImage

LISTING = "duplicates.jsonl"
HASHES = ".hashes-*.npz"
NEAR = 6
"""Most that a cell of two duplicates may differ by, of 255."""
PART = 1024
"""Images hashed between two looks at the disk: about a second's work."""


@dataclass(frozen=True)
class Hashing:
    """The job of hashing all raw images of ``recipe``, as they would go into a shard."""

    recipe: Recipe

    @property
    def out(self) -> Path:
        return self.recipe.out

    @property
    def parts(self) -> int:
        return -(-self.recipe.items // PART)

    def indexes(self, part: int) -> range:
        return range(part * PART, min((part + 1) * PART, self.recipe.items))

    def record(self, part: int) -> Path:
        return self.out / f".hashes-{part:06d}.npz"

    def start(self) -> Work:
        self.recipe.check()
        return self._hash

    def _hash(self, part: int, progress: Callable[[int], None]) -> None:
        """Write the record of ``part``: indexes, hashes, cells and, as JSON, origins. A bad image that may be left out
        is none of them; the build proper will say so, and no good one shall be taken for its duplicate.
        """
        indexes, hashes, cells, origins = [], [], [], []
        for index in self.indexes(part):
            try:
                item, pixels = self.recipe.read(index)
            except BadImage as error:
                self.recipe.excuse(error)
            else:
                indexes.append(index)
                hashes.append(perceptual_hash(pixels))
                cells.append(colour_cells(pixels))
                origins.append(item.origin)
            progress(1)
        shape = (len(indexes), 16 * self.recipe.source.channels)  # said, as there may be none
        with atomic_write(self.record(part)) as file:
            np.savez(
                file,
                indexes=np.array(indexes, np.int64),
                hashes=np.array(hashes, np.uint64),
                cells=np.array(cells, np.uint8).reshape(shape),
                origins=np.frombuffer(json.dumps(origins).encode(), np.uint8),
            )


def perceptual_hash(pixels: np.ndarray) -> int:
    """The pHash, 64 bits, of an image uint8 (height, width, 1 or 3)."""
    import imagehash  # and with it SciPy, which only workers that hash shall pay for

    return int(str(imagehash.phash(_picture(pixels))), 16)


def colour_cells(pixels: np.ndarray) -> np.ndarray:
    """The mean colours of 4x4 cells, uint8 (16 * channels), of an image uint8 (height, width, 1 or 3)."""
    return np.asarray(_picture(pixels).resize((4, 4), Image.Resampling.BOX)).ravel()


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def originals(hashes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """For each row the first one that it is a duplicate of, or itself; int64."""
    found = np.arange(len(hashes))
    rest = found.copy()
    while len(rest):  # once, and again for those whose hash is that of another but whose colours are not
        _, first, lot, count = np.unique(hashes[rest], return_index=True, return_inverse=True, return_counts=True)
        shared = count[lot] > 1
        head, rest = rest[first[lot]][shared], rest[shared]
        near = (np.abs(cells[rest].astype(np.int16) - cells[head]) <= NEAR).all(axis=1)
        found[rest[near]] = head[near]
        rest = rest[~near]
    return found


def leave_out_duplicates(recipe: Recipe, workers: int) -> Recipe:
    """``recipe`` without its near-duplicates, which are listed in ``duplicates.jsonl``: the first of each lot stays.

    Raises:
        InputError: as the build does, and with its rule for bad images.
    """
    job = Hashing(recipe)
    todo = [part for part in range(job.parts) if not job.record(part).exists()]
    if todo:
        left = sum(len(job.indexes(part)) for part in todo)
        print("Looking for near-duplicates.", file=sys.stderr, flush=True)
        with Progress(recipe.items, recipe.items - left, "images hashed") as progress:
            run_crew(job, todo, workers, progress.add)
    indexes, hashes, cells = (_gather(job, name) for name in ("indexes", "hashes", "cells"))
    kept = indexes[originals(hashes, cells)]
    again = kept != indexes
    duplicates = indexes[again]
    _list(job, duplicates, kept[again])
    some = f"{len(duplicates):,} near-duplicate{'s' * (len(duplicates) != 1)}"
    print(f"Left out {some} ({LISTING}).", file=sys.stderr, flush=True)
    return replace(recipe, duplicates=tuple(duplicates.tolist()))


def _gather(job: Hashing, name: str) -> np.ndarray:
    return np.concatenate([_load(job, part, name) for part in range(job.parts)])


def _list(job: Hashing, duplicates: np.ndarray, kept: np.ndarray) -> None:
    origins = _origins(job, np.union1d(duplicates, kept))
    text = io.StringIO()
    for dropped, original in zip(duplicates.tolist(), kept.tolist(), strict=True):
        text.write(json.dumps({"dropped": origins[dropped], "kept": origins[original]}) + "\n")
    with atomic_write(job.out / LISTING) as file:
        file.write(text.getvalue().encode())


def _origins(job: Hashing, wanted: np.ndarray) -> dict[int, str]:
    """Origin by index, of ascending ones. A part at a time: three million origins would take 300 MB."""
    found: dict[int, str] = {}
    for part, mine in enumerate(np.split(wanted, np.searchsorted(wanted, np.arange(1, job.parts) * PART))):
        if len(mine):
            origins = json.loads(_load(job, part, "origins").tobytes())
            rows = np.searchsorted(_load(job, part, "indexes"), mine)
            found.update((index, origins[row]) for index, row in zip(mine.tolist(), rows.tolist(), strict=True))
    return found


def _load(job: Hashing, part: int, name: str) -> np.ndarray:
    with np.load(job.record(part), allow_pickle=False) as arrays:
        array: np.ndarray = arrays[name]
        return array
