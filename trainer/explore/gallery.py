"""Draws what a run has learnt: grids of samples, walks between samples, and sums of concepts.

``torchvision.utils.make_grid`` could replace :func:`lay_out`, but importing torchvision costs 1.6 s a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.names import printable
from trainer.explore.latents import REACH, VARIATIONS, add, blend, variations, walk
from trainer.folder.load_run import LoadedRun
from trainer.gan.networks import Generator, has_batch_norm
from trainer.samples import fixed_latents, generate, to_pixels

PAPER, INK, ACCENT = (255, 255, 255), (70, 70, 70), (214, 92, 48)
GAP = 6  # pixels between tiles
CAPTION = 22  # height in pixels
MIN_SIDE = 96  # pixels to which samples are enlarged at least, so that they can be seen and a caption fits
STACK = 4  # samples of a concept in a column
FRAME_MS = 60  # duration of a frame of a GIF in milliseconds
BARS = {"+": [(-11, -1, 11, 1), (-1, -11, 1, 11)], "-": [(-11, -1, 11, 1)], "=": [(-11, -6, 11, -4), (-11, 4, 11, 6)]}
"""Bars that make up a sign: left, top, right and bottom in pixels from its middle."""

Tiles: TypeAlias = dict[tuple[int, int], Image.Image]  # images of one size by row and column


@dataclass(frozen=True)
class Picture:
    """Tiles of a page, metadata on what they show (JSON-ready), the frames of an endless loop if there is one, and what
    to say of it all.
    """

    tiles: Tiles
    metadata: dict[str, Any]
    loop: Sequence[Image.Image] = ()
    text: str = ""

    def save(self, path: Path, record: Mapping[str, Any]) -> None:
        """Writes the page to ``path`` (.png), the loop beside it (.gif) and ``record`` (.json), each atomically.

        Raises ``InputError`` if a file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                lay_out(self.tiles).save(file, "png", optimize=True)
            if self.loop:
                # One palette for all frames; with one each, still areas would flicker.
                palette = Image.fromarray(np.vstack([np.asarray(frame) for frame in self.loop])).quantize(256)
                first, *others = [frame.quantize(palette=palette) for frame in self.loop]
                with atomic_write(path.with_suffix(".gif")) as file:
                    first.save(file, "gif", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
            with atomic_write(path.with_suffix(".json")) as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}). Give another --out.") from error


def lay_out(tiles: Tiles) -> Image.Image:
    """Puts ``tiles`` on a white page with a margin."""
    width, height = (length + GAP for length in next(iter(tiles.values())).size)
    rows, columns = (max(numbers) + 1 for numbers in zip(*tiles, strict=True))
    page = Image.new("RGB", (columns * width - GAP, rows * height - GAP), PAPER)
    for (row, column), tile in tiles.items():
        page.paste(tile, (column * width, row * height))
    return ImageOps.expand(page, 16, PAPER)


def captioned(image: Image.Image, text: str = "") -> Image.Image:
    """Adds ``text``, or as much white, below ``image``."""
    tile = ImageOps.expand(image, (0, 0, 0, CAPTION), PAPER)
    position = (image.width / 2, image.height + CAPTION / 2)
    ImageDraw.Draw(tile).text(position, text, INK, ImageFont.load_default(15), anchor="mm")
    return tile


def title(text: str, size: tuple[int, int]) -> Image.Image:
    """Writes ``text`` in the middle of a white image of ``size``, smaller if it is long."""
    image, text = Image.new("RGB", size, PAPER), printable(text)
    width = ImageFont.load_default(15).getlength(text) or 1
    font = ImageFont.load_default(max(6, min(15, 15 * size[0] / width)))
    ImageDraw.Draw(image).text((size[0] / 2, (size[1] - CAPTION) / 2), text, INK, font, anchor="mm")
    return image


def sign(kind: str, size: tuple[int, int]) -> Image.Image:
    """Draws ``+``, ``-`` or ``=`` in the middle of a white image of ``size``; the font has no true minus."""
    image = Image.new("RGB", size, PAPER)
    middle = np.array([*size, *size]) // 2
    for bar in BARS[kind]:
        ImageDraw.Draw(image).rectangle((middle + bar).tolist(), INK)
    return captioned(image)


def enlarged(pixels: np.ndarray) -> Image.Image:
    """``pixels``, uint8 (height, width, channels), by a whole factor: 3 at 32 pixels, 2 at 64, 1 from 96 on."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    return ImageOps.scale(image, math.ceil(MIN_SIDE / image.width), Image.Resampling.NEAREST)


def framed(image: Image.Image) -> Image.Image:
    """Draws a frame into ``image``."""
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=ACCENT, width=3)
    return image


@dataclass(frozen=True)
class Gallery:
    """Numbered samples of a generator.

    With the seed of the run, sample i is also the i-th of the run's own grids (``samples/step-*.png``).
    """

    generator: Generator
    seed: int
    truncation: float = 1.0  # scale of the latents
    classes: tuple[str, ...] = ()  # names of those that the generator knows
    chosen: int | None = None  # class of all samples; None for sample i of class i mod len(classes)

    def grid(self, count: int) -> Picture:
        """Draws samples 0 to ``count`` - 1 as a near-square grid, or with a row for each class."""
        tiles, metadata = self._numbered(range(count)), {"picture": "grid", "numbers": [*range(count)]}
        rows = len(self.classes)
        if self.chosen is None and 0 < rows <= count:
            placed = {(number % rows, 1 + number // rows): tile for number, tile in enumerate(tiles)}
            names = {(row, 0): title(name, tiles[0].size) for row, name in enumerate(self.classes)}
            return Picture(names | placed, metadata)
        columns = math.ceil(math.sqrt(count))
        return Picture({divmod(number, columns): tile for number, tile in enumerate(tiles)}, metadata)

    def walk(self, numbers: Sequence[int], frames: int, steps: int) -> Picture:
        """Draws the way through the samples ``numbers`` and back to the first, as a strip and as a loop.

        The strip has a row of ``steps`` + 1 images for each leg, from one sample to the next; the loop has ``frames``.
        """
        points, mixtures = self.latents(numbers), self.mixtures(numbers)
        tiles = {}
        for row, (leg, mixed) in enumerate(zip(walk(points, steps), blend(mixtures, steps), strict=True)):
            captions = {0: self._name(numbers[row]), steps: self._name(numbers[(row + 1) % len(numbers)])}
            for step, image in enumerate(self._images(leg, mixed)):
                tiles[row, step] = captioned(image, captions.get(step, ""))
        legs = zip(walk(points, frames), blend(mixtures, frames), strict=True)
        loop = [image for leg, mixed in legs for image in self._images(leg[:-1], mixed[:-1])]
        return Picture(tiles, {"picture": "walk", "through": numbers, "frames": frames}, loop)

    def arithmetic(self, terms: Sequence[tuple[str, Sequence[int]]]) -> Picture:
        """Draws a signed sum of concepts (Radford et al., arXiv 1511.06434, figure 7), each a sign and sample numbers.

        The samples of a concept stand in columns of up to ``STACK``; below is the image of their mean latent. The row
        of means reads as the sum. The result is framed, with its variations around it.
        """
        means = torch.stack([self.latents(numbers).mean(0) for _, numbers in terms])
        result = add(means, [kind for kind, _ in terms])
        bottom, column = min(STACK, max(len(numbers) for _, numbers in terms)), 0
        tiles: Tiles = {}
        for (kind, numbers), mean in zip(terms, self._images(means), strict=True):
            if tiles or kind == "-":
                tiles[bottom, column] = sign(kind, mean.size)
                column += 1
            top, columns = bottom - min(STACK, len(numbers)), math.ceil(len(numbers) / STACK)
            for place, tile in enumerate(self._numbered(numbers)):
                tiles[top + place % STACK, column + place // STACK] = tile
            tiles[bottom, column + (columns - 1) // 2] = captioned(mean, "mean")
            column += columns
        centre, *around = self._images(torch.cat([result[None], variations(result, self.seed, VARIATIONS)]))
        tiles[bottom, column] = sign("=", centre.size)
        results = [captioned(image) for image in around]
        results.insert(4, captioned(framed(centre), "result"))
        tiles |= {(bottom - 1 + number // 3, column + 1 + number % 3): tile for number, tile in enumerate(results)}
        metadata = {
            "terms": [{"sign": kind, "numbers": numbers} for kind, numbers in terms],
            "variations": {"count": VARIATIONS, "noise": "uniform", "reach": REACH},
        }
        return Picture(tiles, {"picture": "arithmetic", **metadata})

    def neighbours(
        self, numbers: Sequence[int], reals: Sequence[Sequence[np.ndarray]], distances: Sequence[Sequence[float]]
    ) -> Tiles:
        """Draws a row for each of the samples ``numbers``: the sample, framed, and its ``reals`` with ``distances``."""
        tiles = {}
        for row, (number, image) in enumerate(zip(numbers, [*map(enlarged, self.pixels(numbers))], strict=True)):
            tiles[row, 0] = captioned(framed(image), f"sample {self._name(number)}")
            for column, (pixels, distance) in enumerate(zip(reals[row], distances[row], strict=True), 1):
                tiles[row, column] = captioned(enlarged(pixels), f"{distance:.4g}")
        return tiles

    def pixels(self, numbers: Sequence[int]) -> np.ndarray:
        """The samples ``numbers``, uint8 (numbers, height, width, channels)."""
        return self._pixels(self.latents(numbers), self.mixtures(numbers))

    def latents(self, numbers: Sequence[int]) -> torch.Tensor:
        """Float64 (numbers, z_dim); each row is a function of seed, number and truncation."""
        return self.truncation * fixed_latents(self.seed, max(numbers) + 1, self.generator.z_dim)[list(numbers)]

    def mixtures(self, numbers: Sequence[int]) -> torch.Tensor:
        """Shares of the classes, float64 (numbers, classes): 1 for the class of each sample."""
        mixtures = torch.zeros(len(numbers), len(self.classes), dtype=torch.float64)
        for row, number in enumerate(numbers if self.classes else ()):
            mixtures[row, self._class(number)] = 1
        return mixtures

    def _class(self, number: int) -> int:
        return number % len(self.classes) if self.chosen is None else self.chosen

    def _name(self, number: int) -> str:
        """The number, and the class if samples are of several."""
        known = self.classes and self.chosen is None
        return f"{number} ({printable(self.classes[self._class(number)])})" if known else str(number)

    def _pixels(self, latents: torch.Tensor, mixtures: torch.Tensor) -> np.ndarray:
        # One by one; in a batch, their last bits would depend on the size of the batch.
        return to_pixels(generate(self.generator, latents, 1, mixtures if self.classes else None))

    def _images(self, latents: torch.Tensor, mixtures: torch.Tensor | None = None) -> list[Image.Image]:
        """Images of ``latents``, enlarged, of mixtures of classes, or all of the class of sample 0."""
        if mixtures is None:
            mixtures = self.mixtures([0]).expand(len(latents), -1)
        return [enlarged(pixels) for pixels in self._pixels(latents, mixtures)]

    def _numbered(self, numbers: Sequence[int]) -> list[Image.Image]:
        images = self._images(self.latents(numbers), self.mixtures(numbers))
        return [captioned(image, str(number)) for image, number in zip(images, numbers, strict=True)]


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
        **({"batchnorm": "eval"} if has_batch_norm(loaded.generator) else {}),
        "latents": {"distribution": "normal", "mean": 0, "std": 1, "dimensions": loaded.config.model.z_dim},
        "image": {"channels": channels, "size": size},
        "torch": torch.__version__,
    }
