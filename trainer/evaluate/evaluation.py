"""Scores a generator against real images. The part that describes the real images is cached."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shards.common.errors import InputError
from shards.common.names import list_names
from shards.common.progress import Advance
from shards.loading.dataset import ShardDataset
from shards.storage.cache import BlockCache
from trainer.evaluate.cache import keep_tensors, load_tensors
from trainer.evaluate.measures import Measure
from trainer.folder.checkpoint import checkpoint_name
from trainer.folder.score_log import Result, Subject
from trainer.gan.networks import Generator, has_batch_norm
from trainer.gan.noise import EVALUATION, latents
from trainer.samples import generate, to_pixels

CHUNK = 64  # images that a network gets at a time, whatever the number of ranks, so that they change no rounding
MIN_REALS = 10  # images; the scores need pairs, and neighbours of each image
ROWS = "rows"  # name of the tensor in the cache

Source = Callable[[int, int], Tensor]
"""Images ``start`` to ``stop`` of a set, uint8 (n, channels, side, side). Each depends on its number alone."""


def silent(*_: object) -> AbstractContextManager[Advance]:
    """Shows no progress."""
    return nullcontext(lambda _: None)


Progress = Callable[[str, int, str], AbstractContextManager[Advance]]
"""Called with what is to be done, how much of it, and in which unit: images to describe, on all ranks, or parts of a
comparison, on rank 0.
"""


@dataclass(frozen=True)
class Group:
    """The ranks that share an evaluation; the default is a process alone."""

    rank: int = 0
    ranks: int = 1
    gather: Callable[[Tensor], Tensor] = lambda rows: rows
    """Concatenates the tensors of all ranks, in their order."""
    broadcast: Callable[[list[Any]], Any] = lambda _: None
    """Replaces the elements of a list by those of rank 0."""


def generated(generator: Generator, seed: int, reals: ShardDataset | None = None) -> Source:
    """The images that ``generator`` makes of the evaluation latents of ``seed``. If it has classes, each is of that of
    the image with its number among the ``reals``.
    """

    def images(start: int, stop: int) -> Tensor:
        noise = latents(seed, start, stop - start, generator.z_dim, EVALUATION)
        labels = asked_classes(reals, start, stop) if reals is not None and generator.classes else None
        return torch.from_numpy(to_pixels(generate(generator, noise, labels=labels))).permute(0, 3, 1, 2)

    return images


def asked_classes(reals: ShardDataset, start: int, stop: int) -> Tensor:
    """Classes that a conditional generator is asked for, int64 (stop - start,): they are as frequent as in the data."""
    return torch.from_numpy(reals.reader.labels_at(start, stop - start))


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


@dataclass(frozen=True)
class Evaluator:
    """Scores checkpoints of one run."""

    measures: Sequence[Measure]
    dataset: ShardDataset
    samples: int
    device: torch.device
    cache: BlockCache | None  # for what was described of the real images
    group: Group = Group()

    def questions(self, subject: Subject) -> list[Result]:
        """What is asked of ``subject``: a result without scores for each measure."""
        return [self._question(subject, measure) for measure in self.measures]

    def score(
        self,
        subject: Subject,
        fakes: Source,
        known: Sequence[Result] = (),
        progress: Progress = silent,
    ) -> list[Result]:
        """The result of each measure for the images ``fakes`` of ``subject``, on every rank. One that is ``known`` is
        not computed again.
        """
        answers = {measure.name: self._question(subject, measure) for measure in self.measures}
        found = {result.features: result for result in known if result.key == answers.get(result.features)}
        return [
            found.get(measure.name) or self._score(measure, answers[measure.name], fakes, progress)
            for measure in self.measures
        ]

    def describe_numbers(self, question: Result) -> str:
        """Numbers of images, why they are fewer than were asked for, and whether they are made coloured."""
        measure = next(measure for measure in self.measures if measure.name == question.features)
        text = f"{question.features}: {question.samples:,} generated images against {question.reals:,} real ones"
        if question.reals != self.samples:
            text += f", {'the most that it compares' if question.reals == measure.limit else 'which are all'}"
        grey = measure.coloured and self.dataset.manifest.channels == 1
        return f"{text}; grey is repeated in three channels" if grey else text

    def _question(self, subject: Subject, measure: Measure) -> Result:
        count = min(self.samples, measure.limit or self.samples)
        reals = min(count, len(self.dataset))
        return Result(
            **dataclasses.asdict(subject),
            features=measure.name,
            resize=measure.resize,
            samples=reals if measure.paired else count,
            reals=reals,
            data=self.dataset.manifest.digest,
            network=measure.network,
        )

    def _score(self, measure: Measure, question: Result, fakes: Source, progress: Progress) -> Result:
        device, group = self.device, self.group
        ours = self.describe_reals(measure, question.reals, progress)
        with progress(f"{measure.name}, generated", question.samples, "images") as advance:
            theirs = describe(measure, fakes, question.samples, device, group, advance)
        scores: list[dict[str, float]] = [{}]
        if group.rank == 0 and ours is not None:
            with progress(f"{measure.name}, comparison", measure.parts(ours, theirs), "parts") as advance:
                scores = [measure.compare(ours, theirs, advance, self._asked(question.samples))]
        group.broadcast(scores)
        return question.with_scores(scores[0])

    def _asked(self, count: int) -> Tensor | None:
        """The classes that a class-conditional generator was asked for."""
        return asked_classes(self.dataset, 0, count) if self.dataset.classes else None

    def describe_reals(self, measure: Measure, count: int, progress: Progress, first: int = 0) -> Tensor | None:
        """:func:`describe` of ``count`` real images from the ``first`` one on, from rank 0's cache if it was done
        before: then None on other ranks.
        """
        group, cache, name = self.group, None if self.group.rank else self.cache, self.name_reals(measure, count, first)
        kept = load_tensors(cache, name)
        cached = [kept is not None]
        group.broadcast(cached)
        if cached[0]:
            return kept[ROWS].to(self.device) if kept else None
        with progress(f"{measure.name}, real", count, "images") as advance:
            source = real(self.dataset)
            rows = describe(
                measure, lambda *ends: source(*(first + end for end in ends)), count, self.device, group, advance
            )
        keep_tensors(cache, name, {ROWS: rows})
        return rows

    def name_reals(self, measure: Measure, count: int, first: int = 0) -> str:
        """What ``count`` described real images from the ``first`` one on are kept as."""
        reader, order = self.dataset.reader, self.dataset.order
        images: tuple[object, ...] = (self.dataset.manifest.digest, reader.seed, reader.flip, order.lanes, order.block)
        images += (count, first) if first else (count,)
        key = (measure.name, measure.resize, measure.network, _precision(self.device), images)
        return f"{measure.name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"


def _precision(device: torch.device) -> str:
    """How ``device`` multiplies float32 numbers, on which the last digits of features depend."""
    if device.type != "cuda":
        return "ieee"
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return ", ".join(backend.fp32_precision for backend in backends)


def check_reals(dataset: ShardDataset, shape: tuple[int, int], classes: tuple[str, ...] = ()) -> None:
    """Raises ``InputError`` if the images of ``dataset`` are few, or not of the run's ``shape`` (channels, side) and
    ``classes``.
    """
    manifest = dataset.manifest
    if manifest.samples < MIN_REALS:
        raise InputError(f"There are {manifest.samples} real images; scores need at least {MIN_REALS}.")
    if (manifest.channels, manifest.size) != shape:
        raise InputError(
            f"The real images are {manifest.summary}; the run makes images of {shape[1]}x{shape[1]}x{shape[0]}. "
            "Give shards of that shape as --shards."
        )
    if dataset.classes != classes:
        raise InputError(
            f"The classes of the real images are {list_names(dataset.classes)}; the run makes images of "
            f"{list_names(classes)}. Give shards with these classes as --shards."
        )
