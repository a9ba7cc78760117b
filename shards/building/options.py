"""What can be chosen about a build, whatever the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shards.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the shards are to be.

    Raises:
        InputError: a number out of range.
    """

    size: Literal[32, 64, 128] = 64
    """Height and width of the images, in pixels."""
    format: Literal["jpg", "png", "npy"] | None = None
    """Encoding: jpg (quality 95, full colour), png (lossless) or npy (raw, three times the bytes)."""
    shard_samples: int = 2048
    """Images per shard (13 MB of jpg at size 64); a process holds one shard in memory."""
    limit: int | None = None
    """Build only so many images, a random subset."""
    seed: int = 0
    """Seed of the shuffle that makes neighbours independent."""
    skip_bad: bool = False
    """Leave out broken or too small images, and list them in the manifest, instead of stopping at the first."""
    upscale: bool = False
    """Enlarge images smaller than the size instead of stopping at the first."""
    dedup: bool = False
    """Leave out near-duplicates (equal perceptual hash; the first stays), and list them in duplicates.jsonl."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"--size is {self.size}; it must be at least 1.")
        if self.shard_samples < 1:
            raise InputError(f"--shard-samples is {self.shard_samples}; it must be at least 1.")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit is {self.limit}; it must be at least 1, or be left away for all images.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and below 2**64.")
