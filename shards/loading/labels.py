"""The labels of a data set: ``key.cls`` holds the class of ``key.png``."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import closing
from typing import BinaryIO

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.common.progress import progress_bar
from shards.format.index import IMAGES, split_key, walk_members
from shards.format.manifest import Manifest
from shards.storage.cache import BlockCache
from shards.storage.locate import CacheOptions, Location

ADVICE = "Build shards with labels: `python -m shards build mnist|lsun`, or `folder` with one sub-folder per class."
LABEL = np.dtype("<u2")
MOST_CLASSES = 1 << 16


class UnusableLabels(InputError):
    """An image has no label, or one that is no class."""


def open_labels(location: Location, index: np.ndarray, cache: CacheOptions) -> np.ndarray:
    """The class of each sample in the order of ``index``, ``LABEL`` (samples,).

    The index has no labels, because few trainings need them. They are read from the tars once per node, 0.1 ms an image
    and remote tars as a whole, and kept in ``cache``; without a cache, in every process that opens them.

    Raises ``UnusableLabels`` if an image has no ``.cls``, or one that is not a whole number or not the number of a
    class, or if a tar cannot be read.
    """
    manifest = location.manifest
    facts = [manifest.digest, manifest.classes, [shard.sha256 for shard in manifest.shards]]
    name = f"labels-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()}"
    try:
        blocks = BlockCache(cache.folder, cache.limit)
    except InputError:
        return np.frombuffer(_read_all(location, index), LABEL)
    with closing(blocks.get(name, lambda: _read_all(location, index))) as block:
        return np.frombuffer(block.read(0, LABEL.itemsize * manifest.samples), LABEL)


def digest_labels(classes: tuple[str, ...], labels: np.ndarray) -> str:
    """Tells the names and labels of a data set from others (hex)."""
    return xxhash.xxh3_64_hexdigest(json.dumps(classes).encode() + labels.tobytes())


def number_classes(manifest: Manifest, labels: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the classes, and ``labels`` as their places among them.

    If the manifest has no names, as that of other tools' tars, a class is called by its number. Such numbers may have
    gaps, as those of a part of ImageNet; only those that occur are classes.
    """
    if manifest.classes:
        return manifest.classes, labels
    numbers, places = np.unique(labels, return_inverse=True)
    return tuple(map(str, numbers.tolist())), places.astype(LABEL)


def _read_all(location: Location, index: np.ndarray) -> bytes:
    manifest, tars = location.manifest, location.tar_list()
    classes = len(manifest.classes) or MOST_CLASSES
    parts = []
    with progress_bar(manifest.samples, 0, what="labels") as bar:
        for name, rows in zip(tars.names, np.split(index["offset"], manifest.counts.cumsum()[:-1]), strict=True):
            try:
                with tars.open(name) as file:
                    parts.append(_read(file, name, rows.tolist(), classes))
            except (OSError, ValueError) as error:
                raise UnusableLabels(f"The labels in {name} cannot be read: {error}. {ADVICE}") from error
            bar.update(len(rows))
    return np.concatenate(parts).tobytes()


def _read(file: BinaryIO, name: str, offsets: list[int], classes: int) -> np.ndarray:
    """The labels of the images at ``offsets`` of a tar; raises ``ValueError`` if one is missing or no class."""
    keys, labels = {}, {}
    for part, member in walk_members(file, name):
        key, extension = split_key(member.name)
        if extension.lower() in IMAGES:
            keys[member.offset_data] = part, key
        elif extension.lower() == "cls" and member.isfile():
            file.seek(member.offset_data)
            labels[part, key] = file.read(member.size).strip()
    if not labels:
        raise UnusableLabels(f"{name} holds no labels, a .cls for each image (attributes in .json are none). {ADVICE}")
    for offset in offsets:
        part, key = keys.get(offset, (0, "?"))
        if (part, key) not in labels:
            raise ValueError(f"{key}.cls is missing")
        label = labels[part, key]
        if not re.fullmatch(rb"\d{1,18}", label):
            raise ValueError(f"{key}.cls is {label[:20]!r}, not a number of at most 18 digits")
        if int(label) >= classes:
            raise ValueError(f"{key}.cls is {int(label)}; classes are numbered from 0 to {classes - 1}")
    return np.array([int(labels[keys[offset]]) for offset in offsets], LABEL)
