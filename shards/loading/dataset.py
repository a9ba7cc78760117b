"""The stream of images as a torch data set, addressed by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch.utils.data import Dataset

from shards.loading.labels import digest_labels
from shards.loading.reader import Bad, Options, Reader, Report


@dataclass(frozen=True)
class Batch:
    """Samples at consecutive positions."""

    position: int  # of the first sample
    images: torch.Tensor  # uint8 (samples, height, width, channels)
    keys: tuple[str, ...] = ()  # keys of the samples in the tars; empty without the option ``keys``
    bad: tuple[Bad, ...] = ()  # samples that do not decode; all else is that of their neighbours instead
    labels: torch.Tensor | None = None  # int64 (samples,) on the CPU, with the option ``labels``
    numbers: torch.Tensor | None = None  # (samples, width), beside the images, of a loader's companion
    followed: bool = True  # whether the next batch of the stream takes no waiting


def make_batch(
    position: int, images: torch.Tensor, report: Report, numbers: torch.Tensor | None = None, *, followed: bool = True
) -> Batch:
    """The batch of ``images`` that were read with this ``report``."""
    labels = torch.tensor(report.labels) if report.labels else None
    return Batch(position, images, report.keys, report.bad, labels, numbers, followed)


class ShardDataset(Dataset[Batch]):
    """The endless stream of a data set's images, addressed by position.

    ``where`` is a folder or URL, see :func:`shards.storage.locate.locate`; for ``options`` see
    :class:`shards.loading.reader.Options`. Raises ``InputError`` if there is no data set, or its parts do not belong
    together.
    """

    def __init__(self, where: str | Path, **options: Unpack[Options]) -> None:
        self.reader = Reader(where, **options)
        self.manifest, self.order = self.reader.manifest, self.reader.order

    def __len__(self) -> int:
        """Samples in one epoch."""
        return self.manifest.samples

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by their numbers; empty without the option ``labels``."""
        return self.manifest.classes if self.reader.with_labels else ()

    def take_classes(self, classes: tuple[str, ...]) -> None:
        """See :meth:`shards.loading.reader.Reader.take_classes`. Call it before the classes and labels are used."""
        self.reader.take_classes(classes)
        self.manifest = self.reader.manifest

    @cached_property
    def empty_classes(self) -> tuple[str, ...]:
        """Those that have no image, such as one of few images in a small part of a data set."""
        counts = np.bincount(self.reader.labels, minlength=len(self.classes)) if self.classes else ()
        return tuple(name for name, count in zip(self.classes, counts, strict=True) if not count)

    @cached_property
    def labels_digest(self) -> str:
        """What tells labels and names from others, hex; empty without the option ``labels``."""
        return digest_labels(self.classes, self.reader.labels) if self.reader.with_labels else ""

    def __getitem__(self, position: int) -> Batch:
        """The batch of one sample at ``position``, in any epoch."""
        return self.__getitems__(range(position, position + 1))

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch at consecutive ``positions``, in order.

        Raises:
            ValueError: ``positions`` are not consecutive.
            InputError: see :meth:`shards.loading.reader.Reader.read`.
        """
        start, count = positions[0], len(positions)
        if [*positions] != [*range(start, start + count)]:
            raise ValueError("positions must be consecutive: the seed shuffles the stream, not the sampler")
        pixels = np.empty((count, *self.manifest.shape), np.uint8)
        report = self.reader.read(start, pixels)
        return make_batch(start, torch.from_numpy(pixels), report)
