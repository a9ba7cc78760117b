"""Measures whether a generator keeps the colours of the drawn faces: the hues of their backgrounds and of their shirts.

Real and generated images are counted by hue (six, and grey) in two parts of the image: the upper corners and the lower
edge beside the neck. The figure is the total variation distance of the shares, which is 0 for equal shares and 1 if
they have no hue in common. A generator that paints all backgrounds grey has lost what its data vary in, although its
faces may look good.

Example: uv run python -m benchmarks.hues --runs runs/ablation-faces/runs/*-seed0 --images 15360
"""

from __future__ import annotations

import colorsys
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import cli
from shards.common.errors import InputError
from trainer.data import open_images
from trainer.evaluate.evaluation import generated, real
from trainer.folder.checkpoint import checkpoints
from trainer.folder.load_run import LoadedRun, load_run
from trainer.folder.run_folder import RunFolder

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta", "grey")
FIRST = -30  # degrees where the sector of red begins; 0 is its middle
GREY = 0.08  # saturation below which a colour is grey; that of the palest background is 0.09
REGIONS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "backgrounds": lambda images: (images[:, :12, :8], images[:, :12, -8:]),
    "shirts": lambda images: (images[:, -4:, 10:16], images[:, -4:, -16:-10]),
}
"""The left and the right part of images (n, 64, 64, 3) that show one colour."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Shares of hues, and their distance from the data's."""

    runs: tuple[Path, ...] = (Path("runs/faces"),)
    """Folders of runs on drawn faces at 64x64."""
    images: int | None = None
    """Real images after which each run is measured, to compare runs of other batches or lengths; by default its newest
    checkpoint. A study has checkpoints at equal images and at equal time."""
    samples: int = 2048
    """Generated images, and at most as many real ones."""


def hue_shares(images: np.ndarray, region: str) -> np.ndarray:
    """Shares of ``HUES`` among the mean colours that images, uint8 (n, 64, 64, 3), have in ``region``."""
    colours = np.concatenate(REGIONS[region](images), axis=2).mean(axis=(1, 2)) / 255
    return np.bincount([_hue(*colour) for colour in colours], minlength=len(HUES)) / len(images)


def _hue(red: float, green: float, blue: float) -> int:
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    return HUES.index("grey") if saturation < GREY else int((360 * hue - FIRST) % 360 // 60)


def total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Half the sum of the absolute differences of two tables of shares."""
    return float(np.abs(a - b).sum() / 2)


def load_run_after(images: int, folder: Path) -> LoadedRun:
    """The run in ``folder`` from its checkpoint after so many ``images``; raises ``InputError`` if it has none."""
    runs = [load_run(folder, path) for path in checkpoints(RunFolder(folder).checkpoints)]
    for run in runs:
        if run.position == images:
            return run
    known = ", ".join(f"{run.position:,}" for run in runs) or "none"
    raise InputError(f"{folder} has no checkpoint after {images:,} images. It has checkpoints after {known}.")


def benchmark(arguments: Arguments) -> None:
    """Prints the shares of hues of each run and of its data; raises ``InputError`` for images of another kind."""
    figures = {}
    for folder in arguments.runs:
        run = load_run(folder) if arguments.images is None else load_run_after(arguments.images, folder)
        if run.shape != (3, 64):
            channels, side = run.shape
            raise InputError(f"{folder} has images of {side} px in {channels} channels, not drawn faces at 64 px.")
        dataset = open_images(run.config.data)
        with closing(dataset.reader):
            data = real(dataset)(0, min(arguments.samples, len(dataset)))
        fakes = generated(run.generator, run.config.seed, dataset)(0, arguments.samples)
        images = {"data": data.permute(0, 2, 3, 1).numpy(), str(folder): fakes.permute(0, 2, 3, 1).numpy()}
        for region in REGIONS:
            shares = {name: hue_shares(those, region) for name, those in images.items()}
            for name, row in shares.items():
                listed = ", ".join(f"{hue} {share:.0%}" for hue, share in zip(HUES, row, strict=True) if share >= 0.005)
                print(f"{region} of {name}: {listed}")
            figures[f"{folder} {region}"] = distance = total_variation(*shares.values())
            print(f"{region}: total variation {distance:.2f}")
    cli.write_json(arguments, total_variation=figures)


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
