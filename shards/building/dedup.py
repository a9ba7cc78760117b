"""Finds near-duplicates before a build, leaves them out and lists them.

The DCGAN paper (arXiv 1511.06434, section 4.1) did this to LSUN's bedrooms, so that the generator cannot memorise
images that occur often. As there, equal codes are duplicates, so that the cost grows with the number of images rather
than pairs. The paper's code comes from a trained autoencoder, this one is a 64-bit pHash. It ignores colour (61 of
2,000 drawn faces share another's), so duplicates must also agree in the mean colours of 4x4 cells.

Of 120 bedrooms and 600 CelebA faces, 79 to 99 % kept their code after recompression or a change of size, and no two
different images shared one. Cells of copies differed by at most 3 of 255, cells of faces by 10 to 75.

Hidden files in the build's folder keep the hashes until the manifest is written, so that a resumed build reuses them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from shards.building.recipe import Recipe
from shards.building.worker import Work
from shards.building.worker_pool import run_workers
from shards.common.files import atomic_write
from shards.common.progress import Progress
from shards.sources.source import BadImage

LISTING = "duplicates.jsonl"
HASHES = ".hashes-*.npz"
TOLERANCE = 6
"""Largest difference, of 255, between the cells of two duplicates."""
PART = 1024
"""Images per part: about a second's work."""


@dataclass(frozen=True)
class HashImages:
    """The job of hashing all raw images of ``recipe``, resized as for a shard."""

    recipe: Recipe

    @property
    def out(self) -> Path:
        return self.recipe.out

    @property
    def parts(self) -> int:
        return -(-self.recipe.items // PART)

    def indexes(self, part: int) -> range:
        return range(part * PART, min((part + 1) * PART, self.recipe.items))

    def record_path(self, part: int) -> Path:
        return self.out / f".hashes-{part:06d}.npz"

    def start(self) -> Work:
        self.recipe.check_source()
        return self._hash

    def load(self, part: int, name: str) -> np.ndarray:
        """One array of the record of ``part``: ``indexes``, ``hashes``, ``cells`` or ``origins``."""
        with np.load(self.record_path(part), allow_pickle=False) as arrays:
            return np.asarray(arrays[name])

    def load_all(self, name: str) -> np.ndarray:
        return np.concatenate([self.load(part, name) for part in range(self.parts)])

    def _hash(self, part: int, progress: Callable[[int], None]) -> None:
        """Write the record of ``part``: indexes, hashes, cells and, as JSON, origins.

        Bad images that may be skipped are omitted: packing reports them, and no good image may be dropped as a
        duplicate of one.
        """
        indexes, hashes, cells, origins = [], [], [], []
        for index in self.indexes(part):
            try:
                item, pixels = self.recipe.read(index)
            except BadImage as error:
                self.recipe.check_skippable(error)
            else:
                indexes.append(index)
                hashes.append(perceptual_hash(pixels))
                cells.append(colour_cells(pixels))
                origins.append(item.origin)
            progress(1)
        shape = (len(indexes), 16 * self.recipe.source.channels)  # explicit, because there may be no rows
        with atomic_write(self.record_path(part)) as file:
            np.savez(
                file,
                indexes=np.array(indexes, np.int64),
                hashes=np.array(hashes, np.uint64),
                cells=np.array(cells, np.uint8).reshape(shape),
                origins=np.frombuffer(json.dumps(origins).encode(), np.uint8),
            )


def perceptual_hash(pixels: np.ndarray) -> int:
    """The pHash, 64 bits, of an image uint8 (height, width, 1 or 3)."""
    import imagehash  # an extra, and it imports SciPy: only workers that hash need it

    return int(str(imagehash.phash(_to_pillow(pixels))), 16)


def colour_cells(pixels: np.ndarray) -> np.ndarray:
    """The mean colours of 4x4 cells, uint8 (16 * channels), of an image uint8 (height, width, 1 or 3)."""
    return np.asarray(_to_pillow(pixels).resize((4, 4), Image.Resampling.BOX)).ravel()


def _to_pillow(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def find_originals(hashes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """For each row the first row that it duplicates, or itself; int64."""
    originals = np.arange(len(hashes))
    rest = originals.copy()
    while len(rest):  # each pass compares with the first row of equal hash; rows of other colours go into the next
        _, first, group, count = np.unique(hashes[rest], return_index=True, return_inverse=True, return_counts=True)
        shared = count[group] > 1
        candidates, rest = rest[first[group]][shared], rest[shared]
        near = (np.abs(cells[rest].astype(np.int16) - cells[candidates]) <= TOLERANCE).all(axis=1)
        originals[rest[near]] = candidates[near]
        rest = rest[~near]
    return originals


def leave_out_duplicates(recipe: Recipe, workers: int) -> Recipe:
    """``recipe`` without near-duplicates: the first of each group stays, the others are listed in ``LISTING``.

    Raises:
        InputError: as in the build; bad images are skipped only if its options say so.
    """
    job = HashImages(recipe)
    missing = [part for part in range(job.parts) if not job.record_path(part).exists()]
    if missing:
        remaining = sum(len(job.indexes(part)) for part in missing)
        print("Looking for near-duplicates.", file=sys.stderr, flush=True)
        with Progress(recipe.items, recipe.items - remaining, "images hashed") as progress:
            run_workers(job, missing, workers, progress.add)
    indexes = job.load_all("indexes")
    originals = indexes[find_originals(job.load_all("hashes"), job.load_all("cells"))]
    repeated = originals != indexes
    duplicates = indexes[repeated]
    _write_listing(job, duplicates, originals[repeated])
    count = f"{len(duplicates):,} near-duplicate{'s' * (len(duplicates) != 1)}"
    print(f"Left out {count} ({LISTING}).", file=sys.stderr, flush=True)
    return replace(recipe, duplicates=tuple(duplicates.tolist()))


def _write_listing(job: HashImages, duplicates: np.ndarray, originals: np.ndarray) -> None:
    origins = _load_origins(job, np.union1d(duplicates, originals))
    with atomic_write(job.out / LISTING) as file:
        for dropped, kept in zip(duplicates.tolist(), originals.tolist(), strict=True):
            file.write(json.dumps({"dropped": origins[dropped], "kept": origins[kept]}).encode() + b"\n")


def _load_origins(job: HashImages, indexes: np.ndarray) -> dict[int, str]:
    """Origin by index, for ascending ``indexes``. Loads one part at a time: three million origins would take 300 MB."""
    origins: dict[int, str] = {}
    for part, chosen in enumerate(np.split(indexes, np.searchsorted(indexes, np.arange(1, job.parts) * PART))):
        if len(chosen):
            names = json.loads(job.load(part, "origins").tobytes())
            rows = np.searchsorted(job.load(part, "indexes"), chosen)
            origins.update((index, names[row]) for index, row in zip(chosen.tolist(), rows.tolist(), strict=True))
    return origins
