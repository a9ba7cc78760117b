"""What is known of a finished shard, in a hidden file beside it, until the manifest takes it up."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from shards.common.files import atomic_write
from shards.format.manifest import Shard


@dataclass(frozen=True)
class Record:
    """A finished shard."""

    shard: Shard
    rows: np.ndarray
    """``shards.format.index.ENTRY``, one per sample."""
    skipped: tuple[str, ...]
    """Origins of the raw images that were left out of it."""


def save_record(record: Record, path: Path) -> None:
    """The tar must be there already: the record says that it is whole."""
    facts = json.dumps({"shard": asdict(record.shard), "skipped": record.skipped}).encode()
    with atomic_write(path) as file:
        np.savez(file, rows=record.rows, facts=np.frombuffer(facts, np.uint8))


def load_record(path: Path) -> Record:
    """Raises ``OSError`` when there is none."""
    with np.load(path, allow_pickle=False) as arrays:
        facts = json.loads(arrays["facts"].tobytes())
        return Record(Shard(**facts["shard"]), arrays["rows"], tuple(facts["skipped"]))
