"""Finds near-duplicates before a build, leaves them out and lists them.

The DCGAN paper (arXiv 1511.06434, section 4.1) did this to LSUN's bedrooms, so that the generator cannot memorise
images that occur often. As there, equal codes are duplicates, so that the cost grows with the number of images rather
than pairs. The paper's code comes from a trained autoencoder, this one is a 64-bit pHash. It ignores colour (61 of
2,000 drawn faces share another's), so duplicates must also agree in the mean colours of 4x4 cells.

Of 120 bedrooms and 600 CelebA faces, 79 to 99 % kept their code after recompression or a change of size, and no two
different images shared one. Cells of copies differed by at most 3 of 255, cells of faces by 10 to 75. Hidden files keep
the hashes until the manifest is written, for a resumed build.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from shards.building.recipe import Recipe
from shards.building.worker import run_workers
from shards.common.files import atomic_write
from shards.sources.source import BadImage, Items

LISTING = "duplicates.jsonl"
HASHES = ".hashes-*.npz"
TOLERANCE = 6  # largest difference, of 255, between the cells of two duplicates
PART = 1024  # images per part: about a second's work


def hash_images(recipe: Recipe, part: int, items: Items) -> Iterator[None]:
    """Hash ``items``, those of ``part``, resized as for a shard, and write a record; yields after each raw image.

    Bad images that may be skipped are omitted: packing reports them, and no good image may be dropped as a duplicate of
    one.
    """
    indexes, hashes, cells, origins = [], [], [], []
    for number, index in enumerate(_indexes(recipe, part)):
        try:
            item, pixels = recipe.read(items, number)
        except BadImage as error:
            recipe.check_skippable(error)
        else:
            indexes.append(index)
            hashes.append(perceptual_hash(pixels))
            cells.append(colour_cells(pixels))
            origins.append(item.origin)
        yield
    with atomic_write(_record_path(recipe, part)) as file:
        np.savez(
            file,
            indexes=np.array(indexes, np.int64),
            hashes=np.array(hashes, np.uint64),
            cells=np.array(cells, np.uint8).reshape(len(cells), 16 * recipe.source.channels),  # there may be none
            origins=np.frombuffer(json.dumps(origins).encode(), np.uint8),
        )


def _indexes(recipe: Recipe, part: int) -> range:
    return range(part * PART, min((part + 1) * PART, recipe.items))


def _record_path(recipe: Recipe, part: int) -> Path:
    return recipe.out / f".hashes-{part:06d}.npz"


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

    Raises ``InputError`` as the build does.
    """
    records = [_record_path(recipe, part) for part in range(-(-recipe.items // PART))]
    missing = {part: _indexes(recipe, part) for part, path in enumerate(records) if not path.exists()}
    if missing:
        print("Looking for near-duplicates.", file=sys.stderr, flush=True)
    run_workers(hash_images, recipe, missing, recipe.items, workers, "images hashed")
    indexes, hashes, cells = (
        np.concatenate([_load(path, name) for path in records]) for name in ("indexes", "hashes", "cells")
    )
    originals = indexes[find_originals(hashes, cells)]
    duplicates = indexes[originals != indexes]
    _write_listing(recipe.out / LISTING, duplicates, originals[originals != indexes], records)
    count = f"{len(duplicates):,} near-duplicate{'s' * (len(duplicates) != 1)}"
    print(f"Left out {count} ({LISTING}).", file=sys.stderr, flush=True)
    return replace(recipe, duplicates=tuple(duplicates.tolist()))


def _load(record: Path, name: str) -> np.ndarray:
    with np.load(record, allow_pickle=False) as arrays:
        return np.asarray(arrays[name])


def _write_listing(path: Path, dropped: np.ndarray, kept: np.ndarray, records: list[Path]) -> None:
    listed = {*dropped.tolist(), *kept.tolist()}
    origins: dict[int, str] = {}  # only of these: three million would take 300 MB
    for record in records:
        names = json.loads(_load(record, "origins").tobytes())
        items = zip(_load(record, "indexes").tolist(), names, strict=True)
        origins.update((index, name) for index, name in items if index in listed)
    with atomic_write(path) as file:
        for pair in zip(dropped.tolist(), kept.tolist(), strict=True):
            file.write(json.dumps({"dropped": origins[pair[0]], "kept": origins[pair[1]]}).encode() + b"\n")
