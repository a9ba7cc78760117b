"""Scores a generator against real images. The part that describes the real images is cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.loading.dataset import ShardDataset
from trainer.evaluate.measures import Measure
from trainer.folder.load_run import LoadedRun
from trainer.folder.score_log import Result
from trainer.gan.networks import has_batch_norm
from trainer.gan.noise import EVALUATION, latents
from trainer.samples import generate, to_pixels

STEP = 256  # images at a time
ROWS = "rows"  # name of the tensor in a cached file

Source = Callable[[int, int], Tensor]
"""Images ``start`` to ``stop`` of a set, uint8 (n, channels, side, side). Each depends on its number alone."""
Advance = Callable[[int], object]
"""Called with the number of images that were just described."""


def generated(generator: nn.Module, seed: int, z_dim: int) -> Source:
    """The images that ``generator`` makes of the evaluation latents of ``seed``."""

    def images(start: int, stop: int) -> Tensor:
        pixels = to_pixels(generate(generator, latents(seed, start, stop - start, z_dim, EVALUATION)))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    return images


def real(dataset: ShardDataset) -> Source:
    """The images of ``dataset`` in its order."""
    return lambda start, stop: dataset.__getitems__(range(start, stop)).images.permute(0, 3, 1, 2)


def describe(measure: Measure, source: Source, count: int, device: torch.device, advance: Advance) -> Tensor:
    """The rows of ``measure``, on ``device``, for the first ``count`` images of ``source``."""
    rows = []
    for start in range(0, count, STEP):
        images = source(start, min(start + STEP, count))
        rows.append(measure.describe(images.to(device)))
        advance(len(images))
    return torch.cat(rows)


def describe_reals(
    measure: Measure, dataset: ShardDataset, count: int, device: torch.device, cache: Path, advance: Advance
) -> Tensor:
    """:func:`describe` of ``dataset``, from the folder ``cache`` if it was done before."""
    reader, order = dataset.reader, dataset.order
    subject = (
        measure.name,
        measure.resize,
        dataset.manifest.digest,
        reader.seed,
        reader.flip,
        order.lanes,
        order.block,
    )
    name = hashlib.sha256(repr((subject, count)).encode()).hexdigest()[:32]
    path = cache / f"{measure.name}-{name}.safetensors"
    with suppress(OSError, SafetensorError, KeyError):  # absent, or torn by a crash of the machine
        rows = load_file(path)[ROWS].to(device)
        advance(count)
        return rows
    rows = describe(measure, real(dataset), count, device, advance)
    with suppress(OSError), atomic_write(path) as file:  # without it, the next evaluation takes longer
        file.write(save({ROWS: rows.contiguous().cpu()}))
    return rows


@dataclass(frozen=True)
class Evaluation:
    """Scores checkpoints of one run."""

    measures: Sequence[Measure]
    dataset: ShardDataset
    samples: int
    device: torch.device
    cache: Path  # folder for what was described of the real images

    def total(self) -> int:
        """Images that the evaluation of one checkpoint describes."""
        return sum(sum(self._counts(measure)) for measure in self.measures)

    def _counts(self, measure: Measure) -> tuple[int, int]:
        """Numbers of real and of generated images."""
        count = min(self.samples, measure.limit or self.samples)
        return min(count, len(self.dataset)), count

    def score(self, run: LoadedRun, known: Sequence[Result], advance: Advance) -> list[Result]:
        """The result of each measure for the checkpoint ``run``; one that is ``known`` is not computed again.

        Raises ``InputError`` if the real images do not have the shape of the generated ones.
        """
        manifest = self.dataset.manifest
        if (manifest.channels, manifest.size) != run.shape:
            raise InputError(
                f"The real images are {manifest.summary}; the run makes images of {run.shape[1]}x{run.shape[1]}x"
                f"{run.shape[0]}. Give shards of that shape as --shards."
            )
        fakes = generated(run.generator.to(self.device), run.config.seed, run.config.model.z_dim)
        return [self._score(run, measure, fakes, known, advance) for measure in self.measures]

    def _score(
        self, run: LoadedRun, measure: Measure, fakes: Source, known: Sequence[Result], advance: Advance
    ) -> Result:
        reals, samples = self._counts(measure)
        question = Result(
            checkpoint=run.checkpoint.name,
            step=run.step,
            position=run.position,
            features=measure.name,
            resize=measure.resize,
            samples=samples,
            reals=reals,
            data=self.dataset.manifest.digest,
            weights="averaged" if run.config.ema_images else "current",
            batch_norm="eval: running statistics" if has_batch_norm(run.generator) else "none",
        )
        for result in known:
            if result.key == question:
                advance(reals + samples)
                return result
        rows = describe_reals(measure, self.dataset, reals, self.device, self.cache, advance)
        return question.with_scores(measure.compare(rows, describe(measure, fakes, samples, self.device, advance)))
