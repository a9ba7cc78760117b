"""The flags that all studies share, the data that they train on, and their end: the table and the JSON file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmarks.measure import cli
from benchmarks.study.engine import Row
from benchmarks.study.grids import write_rows
from benchmarks.study.plan import Plan
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError, require
from shards.format.manifest import read_manifest
from shards.sources.celeba import Celeba
from shards.sources.faces import Faces
from shards.sources.mnist import Mnist
from shards.sources.source import Source
from trainer.config import Config
from trainer.evaluate.measures import LITE0
from trainer.ranks.device import has_bf16
from trainer.ranks.launch import read_launch

Data = Literal["mnist", "celeba", "faces"]
RAW: dict[Data, tuple[type[Source], Literal[32, 64], str]] = {
    "mnist": (Mnist, 32, "labels,lite0,pixels"),
    "celeba": (Celeba, 64, "lite0,pixels"),
    "faces": (Faces, 64, "lite0,pixels"),
}
"""Source, size of the images, and what the scores compare."""
DCGAN = ("tutorial", "--model.bn-init-mean", "1", "--ema-images", str(Config().ema_images))
"""Preset and flags of the DCGAN paper's recipe, with the average of the generator that shardgan adds."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """The flags of a study."""

    data: Data = "mnist"
    """What to train on. Without --shards, the images are packed first: digits at 32x32 and photographs of
    faces at 64x64, from $SHARDGAN_DATA/mnist and celeba, or drawn faces at 64x64."""
    shards: Path | None = None
    """Shards to train on and to compare with, written by `python -m shards build`."""
    out: Path | None = None
    """Folder of the study; by default runs/NAME-DATA. The same command again continues it."""
    seeds: int = 3
    """Number of seeds: 0, 1, ..."""
    features: int | None = 16
    """Width of both networks; None: those of the preset."""
    scores: str | None = None
    """What the scores compare, comma-separated as --features of trainer.evaluate; by default labels (digits only),
    lite0 and pixels."""
    samples: int = 2000
    """Generated images of an evaluation, and real ones."""
    jobs: int = 2
    """Number of runs at a time."""
    threads: int = 1
    """CPU threads of a run."""
    precision: Literal["auto", "no", "bf16"] = "auto"
    """Mixed precision; auto: bf16 if the device has it."""

    def plan(self, name: str, marks: tuple[int, ...], preset: str, *flags: str) -> Plan:
        """The plan of the study ``name`` of ``preset`` with ``flags``; builds the shards if none are given.

        Raises:
            InputError: there are no shards and no raw images, the extra of the scores is missing, or the device has no
                bf16.
        """
        scores = self.scores or RAW[self.data][2]
        if "lite0" in scores:
            require("scores", LITE0)
        supported, precision = has_bf16(read_launch().cpu), self.precision
        if precision == "auto":
            precision = "bf16" if supported else "no"
        if precision == "bf16" and not supported:  # the trainer would say so in its log, and train in float32
            raise InputError("--precision bf16: this device has no bf16 instructions. Give --precision no.")
        shards = self.shards or build_shards(self.data)
        read_manifest(shards)
        out = self.out or Path("runs", f"{name}-{self.data}")
        width = str(self.features)
        widths = () if self.features is None else ("--model.features-g", width, "--model.features-d", width)
        return Plan(
            preset=preset,
            shards=shards,
            out=out,
            marks=marks,
            flags=(*widths, *flags),
            features=scores,
            samples=self.samples,
            precision=precision,
            threads=self.threads,
        )


def build_shards(data: Data) -> Path:
    """Packs the raw images of ``data`` into data/NAMEsize, if that was not done before, and returns that folder.

    Raises:
        InputError: ``SHARDGAN_DATA`` is not set, or holds no such images.
    """
    source, size, _ = RAW[data]
    out = Path("data", f"{data}{size}")
    if (out / "manifest.json").exists():
        return out
    if source is Faces:
        build(Faces(), out)
        return out
    if not (raw := os.environ.get("SHARDGAN_DATA")):
        raise InputError(f"There are no shards in {out}. Give --shards, or set SHARDGAN_DATA to a folder with {data}/.")
    build(source(Path(raw) / data), out, Options(size=size))  # type: ignore[call-arg]
    return out


def report(arguments: Arguments, plan: Plan, rows: Sequence[Row], *tables: str) -> None:
    """Prints ``tables`` (Markdown) with the machine and the sizes, and writes them, and a picture with a row of samples
    for each variant, to the study's folder.
    """
    seeds = sorted({row.seed for row in rows})
    batches = ", ".join(map(str, sorted({row.asked["batch_size"] for row in rows if row.asked})))
    widths = "the preset's features" if arguments.features is None else f"features {arguments.features}"
    sizes = f"{widths}, batch {batches}, {plan.precision}, seeds {seeds}"
    scored = f"{plan.samples:,} generated and as many real images. Mean (least to largest) over the seeds."
    machine = f"{cli.describe_machine()}, torch {torch.__version__}"
    images = " and ".join(f"{mark:,}" for mark in plan.marks)
    text = "\n\n".join([f"{arguments.data}, {images} images, {sizes}. {machine}.", scored, *tables])
    print(text)
    (plan.out / "table.md").write_text(f"{text}\n")
    grids = plan.out / "grids"
    drawn = [name for name in dict.fromkeys(row.variant for row in rows) if (grids / f"{name}.png").exists()]
    if drawn:
        write_rows(grids, drawn, read_manifest(plan.shards).size, plan.out / "grids.png")
    for row in rows:
        if row.error is not None:
            print(f"{row.variant}, seed {row.seed} failed: {row.error}")
    cli.write_json(arguments, rows=[vars(row) for row in rows])
