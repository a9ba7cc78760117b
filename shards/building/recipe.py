"""A build as data: small, picklable, and all that a worker process needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.building.options import Options
from shards.building.worker import Work
from shards.common.errors import InputError
from shards.format.resize import fit
from shards.order.order import shuffled
from shards.sources.item import Item, Source
from shards.sources.pixels import BadImage

SHUFFLE = 0x5AFD
"""Second word of the Philox key: keeps the shuffle apart from every other stream of the same seed."""


@dataclass(frozen=True)
class Recipe:
    """Which raw image goes where. Sample ``position`` has the key ``f"{position:09d}"`` and lies in shard
    ``position // shard_samples``.
    """

    source: Source
    out: Path
    options: Options
    items: int
    """``len(source)`` when the build began."""
    duplicates: tuple[int, ...] = ()
    """Of these, the ones to leave out; ascending."""

    @property
    def format(self) -> str:
        return self.options.format or self.source.format

    @property
    def upscale(self) -> bool:
        return self.options.upscale or self.source.upscale

    @property
    def samples(self) -> int:
        left = self.items - len(self.duplicates)
        return left if self.options.limit is None else min(self.options.limit, left)

    @property
    def shards(self) -> int:
        return -(-self.samples // self.options.shard_samples)

    def order(self) -> np.ndarray:
        """int64: the source's index of the sample at each position."""
        key = np.array([self.options.seed, SHUFFLE], np.uint64)
        left = np.delete(np.arange(self.items), np.array(self.duplicates, np.int64))
        chosen: np.ndarray = left[shuffled(np.random.Philox(key=key), len(left))[: self.samples]]
        return chosen

    def positions(self, shard: int) -> range:
        start = shard * self.options.shard_samples
        return range(start, min(start + self.options.shard_samples, self.samples))

    def tar(self, shard: int) -> Path:
        return self.out / f"shard-{shard:06d}.tar"

    def record(self, shard: int) -> Path:
        return self.out / f".shard-{shard:06d}.npz"

    def start(self) -> Work:
        """In a worker: what builds a shard, given its number."""
        from shards.building.pack import Packer  # brings webdataset, which nobody else needs

        return Packer(self).pack

    def check(self) -> None:
        """Raises ``InputError`` when the source is not what it was when the build began."""
        if (found := len(self.source)) != self.items:
            raise InputError(f"The raw images changed while they were read: {self.items} before, {found} now.")

    def read(self, index: int) -> tuple[Item, np.ndarray]:
        """The source's item ``index`` and its pixels as they go into a shard; ``BadImage`` when it cannot be used."""
        item = self.source[index]
        try:
            return item, fit(item.image, self.options.size, self.source.channels, self.upscale)
        except ValueError as error:
            raise BadImage(item.origin, str(error)) from error

    def excuse(self, error: BadImage) -> None:
        """Raises ``InputError`` unless bad images may be left out."""
        if not self.options.skip_bad:
            raise InputError(f"{error}. --skip-bad leaves such images out.") from error

    def choices(self) -> dict[str, Any]:
        """Everything that decides the output, flat and JSON-ready; the source's own fields as ``"celeba.crop"``.

        A source's fields are its attributes; :class:`Path` ones are left to :meth:`places`, so that equal data builds
        equal manifests wherever it lies. ``skip_bad`` is no choice: who stopped at a bad image may go on with it.
        ``dedup`` is one when it is made: data sets from before it was known must not differ.
        """
        own = {f"{self.source.name}.{name}": value for name, value in vars(self.source).items()}
        chosen = {**asdict(self.options), "format": self.format, "upscale": self.upscale, **own}
        del chosen["skip_bad"]
        if not self.options.dedup:
            del chosen["dedup"]
        return {"items": self.items} | {name: value for name, value in chosen.items() if not isinstance(value, Path)}

    def places(self) -> dict[str, str]:
        """Where the source lies: decides nothing, but within one build it must not change."""
        own = vars(self.source).items()
        return {f"{self.source.name}.{name}": str(path.resolve()) for name, path in own if isinstance(path, Path)}


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What tells two sets of choices apart, as a person reads it; empty when nothing does.

    ``upscale`` may be turned on later: what was built without it had no need of it.
    """
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    names = [name for name in names if name != "upscale" or found.get(name)]
    return ", ".join(f"{name.replace('_', '-')} was {found.get(name)}, is {wanted.get(name)}" for name in names)
