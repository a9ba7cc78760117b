"""The labels of a data set: ``key.cls`` holds the class of ``key.png``."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

from shards.common.errors import InputError
from shards.format.index import IMAGES, split_key, walk_members
from shards.loading.reader import Reader

ADVICE = "Build shards with labels: `python -m shards build mnist|lsun`, or `folder` with one sub-folder per class."


def read_labels(reader: Reader, start: int, count: int) -> np.ndarray:
    """The labels of ``count`` samples from position ``start`` of the stream on, int64 (count,).

    Reads all headers of the tars that contain them, 0.1 ms per image, and remote tars as a whole, without the cache:
    the index has no labels, because training does not need them.

    Raises:
        InputError: an image has no ``.cls``, or one that is not a whole number; a tar cannot be read.
    """
    shards, rows = reader.order.lookup(np.arange(start, start + count))
    offsets = reader.offsets(shards, rows)
    tars = reader.location.tar_list()
    labels = np.empty(count, np.int64)
    for number in np.unique(shards).tolist():
        name = tars.names[number]
        try:
            with tars.open(name) as file:
                labels[shards == number] = _read(file, name, offsets[shards == number].tolist())
        except (OSError, ValueError) as error:
            raise InputError(f"The labels in {name} cannot be read: {error}. {ADVICE}") from error
    return labels


def _read(file: BinaryIO, name: str, offsets: list[int]) -> list[int]:
    """The labels of the images at ``offsets`` of a tar; raises ``ValueError`` if one is missing or not a number."""
    keys, labels = {}, {}
    for part, member in walk_members(file, name):
        key, extension = split_key(member.name)
        if extension.lower() in IMAGES:
            keys[member.offset_data] = part, key
        elif extension.lower() == "cls" and member.isfile():
            file.seek(member.offset_data)
            labels[part, key] = file.read(member.size).strip()
    if not labels:
        raise InputError(f"{name} holds no labels, a .cls for each image. {ADVICE}")
    for offset in offsets:
        part, key = keys.get(offset, (0, "?"))
        if (part, key) not in labels:
            raise ValueError(f"{key}.cls is missing")
        if not re.fullmatch(rb"\d{1,18}", labels[part, key]):  # longer numbers may not fit into an int64
            raise ValueError(f"{key}.cls is {labels[part, key][:20]!r}, not a number of at most 18 digits")
    return [int(labels[keys[offset]]) for offset in offsets]
