"""A build as data: its source, its options, and which raw image goes into which shard. Small and picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shards.common.errors import InputError
from shards.format.codec import fit
from shards.format.manifest import DUPLICATES, NOT_IMAGES, Manifest
from shards.order.order import philox, shuffled
from shards.sources.source import BadImage, Item, Items, Source

SHUFFLE = 0x5AFD  # second word of the Philox key: separates the shuffle from every other stream of the same seed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a build that every source has."""

    size: Literal[32, 64, 128, 256] = 64
    """Height and width of the images, in pixels."""
    format: Literal["jpg", "png", "npy"] | None = None
    """Encoding: jpg (quality 95, full colour), png (lossless) or npy (raw, three times the bytes)."""
    shard_samples: int = 2048
    """Images per shard (13 MB of jpg at size 64, 90 MB at 256); a process holds one shard in memory."""
    limit: int | None = None
    """Build only this many images, a random subset."""
    seed: int = 0
    """Seed of the shuffle of the images."""
    skip_bad: bool = False
    """Leave out broken, unreadable or too small images and list them in the manifest, instead of stopping at one."""
    upscale: bool = False
    """Enlarge images smaller than the size instead of stopping at the first."""
    dedup: bool = False
    """Leave out near-duplicates (equal perceptual hash and colours; the first stays), and list them in
    duplicates.jsonl. Needs the extra: uv sync --extra dedup."""

    def __post_init__(self) -> None:
        """Raises ``InputError`` if a number is out of range."""
        for name, value in (("size", self.size), ("shard-samples", self.shard_samples), ("limit", self.limit)):
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}; it must be at least 1.")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and below 2**64.")


@dataclass(frozen=True)
class Recipe:
    """Assigns raw images to shards: sample ``p`` has the key ``f"{p:09d}"`` and is in shard ``p // shard_samples``."""

    source: Source
    out: Path
    options: Options
    items: int  # ``len(source)`` at the start of the build
    duplicates: tuple[int, ...] = ()  # indexes of the items to leave out; ascending

    @property
    def format(self) -> str:
        return self.options.format or self.source.format

    @property
    def upscale(self) -> bool:
        return self.options.upscale or self.source.upscale

    @property
    def samples(self) -> int:
        available = self.items - len(self.duplicates)
        return available if self.options.limit is None else min(self.options.limit, available)

    @property
    def shards(self) -> int:
        return -(-self.samples // self.options.shard_samples)

    def order(self) -> np.ndarray:
        """int64 (samples,): the source's index of the sample at each position; at its peak 32 bytes an image."""
        available = np.delete(np.arange(self.items), np.array(self.duplicates, np.int64))
        return np.asarray(available[shuffled(philox(self.options.seed, SHUFFLE), len(available))[: self.samples]])

    def positions(self, shard: int) -> range:
        start = shard * self.options.shard_samples
        return range(start, min(start + self.options.shard_samples, self.samples))

    def read(self, items: Items, index: int) -> tuple[Item, np.ndarray]:
        """Read ``items[index]`` and resize it: uint8 (size, size, channels). Raises ``BadImage`` if it is unusable."""
        item = items[index]
        try:
            return item, fit(item.image, self.options.size, self.source.channels, self.upscale)
        except ValueError as error:
            raise BadImage(item.origin, str(error)) from error

    def check_skippable(self, error: BadImage) -> None:
        """Raise ``InputError`` unless bad images are to be skipped."""
        if not self.options.skip_bad:
            raise InputError(f"{error}. --skip-bad leaves such images out.") from error

    def manifest(self) -> Manifest:
        """The manifest without its shards. Lists the source."""
        source = self.source
        return Manifest(
            source=source.name,
            format=self.format,
            size=self.options.size,
            channels=source.channels,
            shards=(),
            index_sha256="",
            classes=source.classes,
            build=self.build_options()
            | ({DUPLICATES: len(self.duplicates)} if self.options.dedup else {})
            | ({NOT_IMAGES: dict(source.passed_over)} if source.passed_over else {}),
            skipped=tuple(source.unreadable),
        )

    def build_options(self, *, paths: bool = False) -> dict[str, Any]:
        """Everything that determines the output, flat and JSON-ready; fields of the source as ``"celeba.crop"``.

        The source's paths do not, so that equal data build equal manifests wherever the data are; but they must not
        change within one build, and ``paths`` adds them. ``skip_bad`` is not part of the recipe, so an interrupted
        build can be resumed with it. ``dedup`` appears only when it is set: manifests of earlier versions lack it.
        """
        options = {"items": self.items, **asdict(self.options), "format": self.format, "upscale": self.upscale}
        del options["skip_bad"]
        if not self.options.dedup:
            del options["dedup"]
        for name, value in vars(self.source).items():
            if paths or not isinstance(value, Path):
                options[f"{self.source.name}.{name}"] = str(value.resolve()) if isinstance(value, Path) else value
        return options


def differences(recorded: Mapping[str, Any], requested: Mapping[str, Any], *, upscale_later: bool = True) -> str:
    """Describe how two sets of build options differ; empty if they do not.

    ``upscale`` may be turned on later: the images that were built without it did not need it.
    """
    names = [name for name in {**recorded, **requested} if recorded.get(name) != requested.get(name)]
    names = [name for name in names if not upscale_later or name != "upscale" or recorded.get(name)]
    return ", ".join(f"{name.replace('_', '-')} was {recorded.get(name)}, is {requested.get(name)}" for name in names)
