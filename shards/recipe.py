"""A build as data: small, picklable, and all that a worker process needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.options import Options
from shards.order import shuffled
from shards.sources.item import Source

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

    @property
    def format(self) -> str:
        return self.options.format or self.source.format

    @property
    def upscale(self) -> bool:
        return self.options.upscale or self.source.upscale

    @property
    def samples(self) -> int:
        return self.items if self.options.limit is None else min(self.options.limit, self.items)

    @property
    def shards(self) -> int:
        return -(-self.samples // self.options.shard_samples)

    def order(self) -> np.ndarray:
        """int64: the source's index of the sample at each position."""
        key = np.array([self.options.seed, SHUFFLE], np.uint64)
        return shuffled(np.random.Philox(key=key), self.items)[: self.samples]

    def positions(self, shard: int) -> range:
        start = shard * self.options.shard_samples
        return range(start, min(start + self.options.shard_samples, self.samples))

    def tar(self, shard: int) -> Path:
        return self.out / f"shard-{shard:06d}.tar"

    def record(self, shard: int) -> Path:
        return self.out / f".shard-{shard:06d}.npz"

    def choices(self) -> dict[str, Any]:
        """Everything that decides the output, flat and JSON-ready; the source's own fields as ``"celeba.crop"``.

        A source's fields are its attributes; :class:`Path` ones are left to :meth:`places`, so that equal data builds
        equal manifests wherever it lies. ``skip_bad`` is no choice: who stopped at a bad image may go on with it.
        """
        own = {f"{self.source.name}.{name}": value for name, value in vars(self.source).items()}
        chosen = {**asdict(self.options), "format": self.format, "upscale": self.upscale, **own}
        del chosen["skip_bad"]
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
