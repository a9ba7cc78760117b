"""What each kind of picture shows of a run, and how it is laid out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from trainer.explore.latents import add, variations, walk
from trainer.explore.layout import GAP, below, beside, captioned, enlarge, framed, lifted, margin, sign, table
from trainer.explore.terms import STRIP, VARIATIONS, Term
from trainer.gan.networks import Generator
from trainer.samples import fixed_latents, generate, to_pixels

STACK = 4
"""Samples of a concept above each other; more stand in more columns."""


@dataclass(frozen=True)
class Drawn:
    """A picture, and the frames of an endless loop if there is one."""

    picture: Image.Image
    loop: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """The samples of one generator and one seed, by number.

    With the run's own seed, sample i is also the i-th on the run's sheets (``samples/step-*.png``).
    """

    generator: Generator
    seed: int

    def grid(self, count: int) -> Drawn:
        """A sheet of the samples 0 to ``count`` - 1, as near to a square as may be."""
        return Drawn(margin(table(self._numbered(range(count)), math.ceil(math.sqrt(count)))))

    def walk(self, numbers: Sequence[int], frames: int) -> Drawn:
        """A way through the samples ``numbers`` and back to the first: a strip, and a loop of ``frames`` frames a leg.

        The strip has a line for each leg, which begins and ends on a sample.
        """
        points = self.latents(numbers)
        strip: list[Image.Image] = []
        for place, leg in enumerate(walk(points, STRIP)):
            names = {0: str(numbers[place]), STRIP: str(numbers[(place + 1) % len(numbers)])}
            strip += [captioned(image, names.get(step, "")) for step, image in enumerate(self._images(leg))]
        loop = [image for leg in walk(points, frames) for image in self._images(leg[:-1])]
        return Drawn(margin(table(strip, STRIP + 1)), tuple(loop))

    def arithmetic(self, terms: Sequence[Term]) -> Drawn:
        """A signed sum of concepts as in the DCGAN paper (Radford et al., arXiv 1511.06434, figure 7).

        Each concept: its samples, and below them what the mean of their latents looks like; the line of means reads as
        the sum. Then the result, framed, among its variations.
        """
        means = torch.stack([self.latents(term.numbers).mean(0) for term in terms])
        result = add(means, [term.sign for term in terms])
        operands: list[Image.Image] = []
        for place, (term, mean) in enumerate(zip(terms, self._images(means), strict=True)):
            samples = table(self._numbered(term.numbers), math.ceil(len(term.numbers) / STACK))
            if place or term.sign == "-":
                operands.append(captioned(sign(term.sign, mean.height), ""))
            operands.append(below([samples, captioned(mean, "mean")], gap=10))
        centre, *around = self._images(torch.cat([result[None], variations(result, self.seed, VARIATIONS)]))
        operands.append(captioned(sign("=", centre.height), ""))
        nine = table([*around[:4], framed(centre), *around[4:]], 3)
        # So high that the means, the signs and the result stand on one line.
        left = lifted(beside(operands), centre.height + GAP)
        return Drawn(margin(beside([left, captioned(nine, "the result, among variations of it")])))

    def latents(self, numbers: Sequence[int]) -> torch.Tensor:
        """Float64 (numbers, z_dim); each row is a function of seed and number."""
        return fixed_latents(self.seed, max(numbers) + 1, self.generator.z_dim)[list(numbers)]

    def _numbered(self, numbers: Sequence[int]) -> list[Image.Image]:
        images = self._images(self.latents(numbers))
        return [captioned(image, str(number)) for image, number in zip(images, numbers, strict=True)]

    def _images(self, latents: torch.Tensor) -> list[Image.Image]:
        """One by one: in a batch the last bits would depend on its size, and a sample on those beside it."""
        return [enlarge(pixels) for pixels in to_pixels(generate(self.generator, latents, batch=1))]
