"""Scores a generator against real images. The part that describes the real images is cached."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.loading.dataset import ShardDataset
from trainer.evaluate.measures import Measure
from trainer.folder.checkpoint import checkpoint_name
from trainer.folder.score_log import Result, Subject
from trainer.gan.networks import Generator, has_batch_norm
from trainer.gan.noise import EVALUATION, latents
from trainer.samples import generate, to_pixels

CHUNK = 64  # images that a network gets at a time, whatever the number of ranks, so that they change no rounding
MIN_REALS = 10  # images; the scores need pairs, and neighbours of each image
ROWS = "rows"  # name of the tensor in a cached file

Source = Callable[[int, int], Tensor]
"""Images ``start`` to ``stop`` of a set, uint8 (n, channels, side, side). Each depends on its number alone."""
Advance = Callable[[int], object]
"""Called with the number of images that were just described."""


@dataclass(frozen=True)
class Group:
    """The ranks that share an evaluation; the default is a process alone."""

    rank: int = 0
    ranks: int = 1
    gather: Callable[[Tensor], Tensor] = lambda rows: rows
    """Concatenates the tensors of all ranks, in their order."""
    broadcast: Callable[[list[Any]], Any] = lambda _: None
    """Replaces the elements of a list by those of rank 0."""


def generated(generator: nn.Module, seed: int, z_dim: int) -> Source:
    """The images that ``generator`` makes of the evaluation latents of ``seed``."""

    def images(start: int, stop: int) -> Tensor:
        pixels = to_pixels(generate(generator, latents(seed, start, stop - start, z_dim, EVALUATION)))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    return images


def real(dataset: ShardDataset) -> Source:
    """The images of ``dataset`` in its order."""
    return lambda start, stop: dataset.__getitems__(range(start, stop)).images.permute(0, 3, 1, 2)


def describe_subject(step: int, position: int, generator: Generator, *, averaged: bool, digest: str = "") -> Subject:
    """The ``generator`` of a run after ``step`` steps, in ``eval`` mode. ``digest`` is that of its checkpoint."""
    return Subject(
        checkpoint=checkpoint_name(step),
        step=step,
        position=position,
        weights="averaged" if averaged else "current",
        batch_norm="eval: running statistics" if has_batch_norm(generator) else "none",
        digest=digest,
    )


def describe(
    measure: Measure, source: Source, count: int, device: torch.device, group: Group, advance: Advance
) -> Tensor:
    """The rows of ``measure``, on ``device``, for the first ``count`` images of ``source``, on every rank.

    Ranks take turns at chunks of one size. Those behind the last image are described too, so that all ranks gather
    equally much, and dropped.
    """
    rows, chunks = [], -(-count // CHUNK)
    for first in range(0, chunks, group.ranks):
        start = (first + group.rank) * CHUNK
        rows.append(measure.describe(source(start, start + CHUNK).to(device)))
        advance(min(count, (first + group.ranks) * CHUNK) - first * CHUNK)
    turns = group.gather(torch.stack(rows))  # (ranks * turns, CHUNK, ...)
    ordered = turns.view(group.ranks, len(rows), *turns.shape[1:]).transpose(0, 1)
    return ordered.flatten(0, 2)[:count]


def describe_reals(
    measure: Measure,
    dataset: ShardDataset,
    count: int,
    device: torch.device,
    group: Group,
    advance: Advance,
    cache: Path | None,
) -> Tensor | None:
    """:func:`describe` of ``dataset``, from rank 0's ``cache`` if it was done before: then None on other ranks."""
    reader, order = dataset.reader, dataset.order
    images = (dataset.manifest.digest, reader.seed, reader.flip, order.lanes, order.block, count)
    name = hashlib.sha256(repr((measure.name, measure.resize, measure.network, images)).encode()).hexdigest()[:32]
    path = cache / f"{measure.name}-{name}.safetensors" if cache and group.rank == 0 else None
    rows = None
    if path:
        with suppress(OSError, SafetensorError, KeyError):  # absent, or torn by a crash of the machine
            rows = load_file(path)[ROWS].to(device)
    cached = [rows is not None]
    group.broadcast(cached)
    if cached[0]:
        advance(count)
        return rows
    rows = describe(measure, real(dataset), count, device, group, advance)
    if path:
        with suppress(OSError), atomic_write(path) as file:  # without it, the next evaluation takes longer
            file.write(save({ROWS: rows.contiguous().cpu()}))
    return rows


@dataclass(frozen=True)
class Evaluator:
    """Scores checkpoints of one run."""

    measures: Sequence[Measure]
    dataset: ShardDataset
    samples: int
    device: torch.device
    cache: Path | None  # folder for what was described of the real images
    group: Group = Group()

    def total(self) -> int:
        """Images that the evaluation of one checkpoint describes."""
        return sum(sum(self._counts(measure)) for measure in self.measures)

    def _counts(self, measure: Measure) -> tuple[int, int]:
        """Numbers of real and of generated images."""
        count = min(self.samples, measure.limit or self.samples)
        reals = min(count, len(self.dataset))
        return reals, reals if measure.paired else count

    def score(
        self, subject: Subject, fakes: Source, known: Sequence[Result] = (), advance: Advance = lambda _: None
    ) -> list[Result]:
        """The result of each measure for the images ``fakes`` of ``subject``, on every rank. One that is ``known`` is
        not computed again.
        """
        return [self._score(subject, measure, fakes, known, advance) for measure in self.measures]

    def _score(
        self, subject: Subject, measure: Measure, fakes: Source, known: Sequence[Result], advance: Advance
    ) -> Result:
        reals, samples = self._counts(measure)
        question = Result(
            **dataclasses.asdict(subject),
            features=measure.name,
            resize=measure.resize,
            samples=samples,
            reals=reals,
            data=self.dataset.manifest.digest,
        )
        for result in known:
            if result.key == question:
                advance(reals + samples)
                return result
        device, group = self.device, self.group
        ours = describe_reals(measure, self.dataset, reals, device, group, advance, self.cache)
        theirs = describe(measure, fakes, samples, device, group, advance)
        scores: list[dict[str, float]] = [{}]
        if group.rank == 0 and ours is not None:
            scores = [measure.compare(ours, theirs)]
        group.broadcast(scores)
        return question.with_scores(scores[0])


def check_reals(dataset: ShardDataset, shape: tuple[int, int]) -> None:
    """Raises ``InputError`` if the images of ``dataset`` are few, or not of the run's ``shape`` (channels, side)."""
    manifest = dataset.manifest
    if manifest.samples < MIN_REALS:
        raise InputError(f"There are {manifest.samples} real images; scores need at least {MIN_REALS}.")
    if (manifest.channels, manifest.size) != shape:
        raise InputError(
            f"The real images are {manifest.summary}; the run makes images of {shape[1]}x{shape[1]}x{shape[0]}. "
            "Give shards of that shape as --shards."
        )
