"""Draws what a run has learnt: grids of samples, walks between samples, and sums of concepts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps

from trainer.explore.latents import REACH, VARIATIONS, add, variations, walk
from trainer.explore.picture import GAP, PAPER, Picture, above, captioned, enlarge, framed, side_by_side, sign, table
from trainer.explore.terms import Term
from trainer.folder.load_run import LoadedRun
from trainer.gan.networks import Generator
from trainer.samples import fixed_latents, generate, to_pixels

STACK = 4
"""Largest number of samples of a concept in one column."""


@dataclass(frozen=True)
class Gallery:
    """Numbered samples of a generator.

    With the seed of the run, sample i is also the i-th of the run's own grids (``samples/step-*.png``).
    """

    generator: Generator
    seed: int

    def grid(self, count: int) -> Picture:
        """Draws samples 0 to ``count`` - 1 as a near-square grid."""
        page = table(self._numbered(range(count)), math.ceil(math.sqrt(count)))
        return Picture(page, {"picture": "grid", "numbers": [*range(count)]})

    def walk(self, numbers: Sequence[int], frames: int, steps: int) -> Picture:
        """Draws the way through the samples ``numbers`` and back to the first, as a strip and as a loop.

        The strip has a row of ``steps`` + 1 images for each leg, from one sample to the next; the loop has ``frames``.
        """
        points = self.latents(numbers)
        strip: list[Image.Image] = []
        for index, leg in enumerate(walk(points, steps)):
            names = {0: str(numbers[index]), steps: str(numbers[(index + 1) % len(numbers)])}
            strip += [captioned(image, names.get(step, "")) for step, image in enumerate(self._images(leg))]
        loop = [image for leg in walk(points, frames) for image in self._images(leg[:-1])]
        metadata = {"picture": "walk", "through": numbers, "frames": frames}
        return Picture(table(strip, steps + 1), metadata, tuple(loop))

    def arithmetic(self, terms: Sequence[Term]) -> Picture:
        """Draws a signed sum of concepts (Radford et al., arXiv 1511.06434, figure 7).

        Each concept shows its samples and, below them, the image of their mean latent. The row of means reads as the
        sum. The result is framed, with its variations around it.
        """
        means = torch.stack([self.latents(term.numbers).mean(0) for term in terms])
        result = add(means, [term.sign for term in terms])
        row: list[Image.Image] = []
        for index, (term, mean) in enumerate(zip(terms, self._images(means), strict=True)):
            samples = table(self._numbered(term.numbers), math.ceil(len(term.numbers) / STACK))
            if index or term.sign == "-":
                row.append(captioned(sign(term.sign, mean.height), ""))
            row.append(above(samples, captioned(mean, "mean"), gap=10))
        centre, *around = self._images(torch.cat([result[None], variations(result, self.seed, VARIATIONS)]))
        row.append(captioned(sign("=", centre.height), ""))
        results = table([*around[:4], framed(centre), *around[4:]], 3)
        # White space below the terms puts the means and the signs on one line with the result.
        left = ImageOps.expand(side_by_side(row), (0, 0, 0, centre.height + GAP), PAPER)
        page = side_by_side([left, captioned(results, "the result, among variations of it")])
        noise = {"count": VARIATIONS, "noise": "uniform", "reach": REACH}
        terms_as_json = [asdict(term) for term in terms]
        return Picture(page, {"picture": "arithmetic", "terms": terms_as_json, "variations": noise})

    def latents(self, numbers: Sequence[int]) -> torch.Tensor:
        """Float64 (numbers, z_dim); each row is a function of seed and number."""
        return fixed_latents(self.seed, max(numbers) + 1, self.generator.z_dim)[list(numbers)]

    def _numbered(self, numbers: Sequence[int]) -> list[Image.Image]:
        images = self._images(self.latents(numbers))
        return [captioned(image, str(number)) for image, number in zip(images, numbers, strict=True)]

    def _images(self, latents: torch.Tensor) -> list[Image.Image]:
        """Generates images one by one; in a batch, their last bits would depend on the size of the batch."""
        return [enlarge(pixels) for pixels in to_pixels(generate(self.generator, latents, batch=1))]


def origin(run: Path, loaded: LoadedRun) -> dict[str, Any]:
    """The checkpoint and the settings that a picture was made with, JSON-ready."""
    channels, size = loaded.shape
    return {
        "run": str(run),
        "checkpoint": str(loaded.checkpoint),
        "checkpoint_sha256": loaded.digest,
        "step": loaded.step,
        "position": loaded.position,
        "weights": "average" if loaded.config.ema_images else "plain",
        "batchnorm": "eval",
        "latents": {"distribution": "normal", "mean": 0, "std": 1, "dimensions": loaded.config.model.z_dim},
        "image": {"channels": channels, "size": size},
        "torch": torch.__version__,
    }
