"""``python -m shards``: build shards from raw images, and look at them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import (
    DisallowNone,
    OmitArgPrefixes,
    OmitSubcommandPrefixes,
    Positional,
    PositionalMetavarFromFieldName,
    arg,
    subcommand,
)

from shards.building.build import build
from shards.building.options import Options
from shards.check.commands import Index, Info, Verify, summary
from shards.common.errors import InputError
from shards.format.manifest import MANIFEST
from shards.sources.celeba import Celeba
from shards.sources.faces.faces import Faces
from shards.sources.folder import Folder
from shards.sources.item import Source
from shards.sources.lsun import Lsun
from shards.sources.mnist import Mnist

DEFAULTS = Options(format="jpg")
LOSSLESS = Options(format="png")


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of source shares."""

    options: Annotated[Options, arg(name="build")] = DEFAULTS
    workers: int | None = None
    """Processes, one per core unless given. They change the speed and nothing else."""

    def build(self, source: Source, out: Path) -> None:
        there = (out / MANIFEST).exists()
        manifest = build(source, out, self.options, self.workers)
        print(f"{out} was built before; nothing to do." if there else f"{out} is built.", file=sys.stderr)
        print(summary(manifest))


@dataclass(frozen=True, kw_only=True)
class BuildMnist(Common):
    """MNIST and its look-alikes: grey digits with labels, from IDX files.

    Example: python -m shards build mnist raw/mnist data/mnist64
    """

    raw: Positional[Path]
    """Folder of train-images-idx3-ubyte and its like, gzipped or not."""
    out: Positional[Path]
    """Folder to build into; made if need be."""
    split: Literal["train", "test", "all"] = "train"
    """60,000 images for training, 10,000 for testing, or the ones and then the others."""
    options: Annotated[Options, arg(name="build")] = LOSSLESS

    def run(self) -> None:
        self.build(Mnist(self.raw, self.split), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildCeleba(Common):
    """CelebA: aligned faces, with attributes and split where their lists are there.

    Example: python -m shards build celeba raw/celeba data/celeba64
    """

    raw: Positional[Path]
    """Folder that holds img_align_celeba or img_align_celeba.zip, or one of these itself. A zip is read as it is."""
    out: Positional[Path]
    """Folder to build into; made if need be."""
    crop: int = 178
    """Side of the centred square to keep, in pixels of 178x218: 178 keeps the hair, 108 (DCGAN papers) the face."""
    split: Literal["all", "train", "valid", "test"] = "all"
    """CelebA's own split; needs list_eval_partition.txt."""

    def run(self) -> None:
        self.build(Celeba(self.raw, self.crop, self.split), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildLsun(Common):
    """LSUN: scenes or objects from the LMDBs that it is handed out as; several categories become classes.

    Example: python -m shards build lsun raw/lsun data/lsun64 --categories bedroom,church_outdoor --dedup
    """

    raw: Positional[Path]
    """An unzipped LMDB, such as bedroom_train_lmdb, or the folder that holds several."""
    out: Positional[Path]
    """Folder to build into; made if need be."""
    categories: str = ""
    """Names with commas between them, in the order of the labels. Without, all that are there, by the alphabet."""
    split: Literal["train", "val", "all"] = "train"
    """Which of the LMDBs in a folder; one that RAW names itself is always taken."""

    def run(self) -> None:
        categories = tuple(name for name in self.categories.split(",") if name)
        self.build(Lsun(self.raw, categories, self.split), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildFolder(Common):
    """Any folder of images, at any depth; the first-level sub-folder is the class.

    Example: python -m shards build folder raw/flowers data/flowers64 --skip-bad
    """

    raw: Positional[Path]
    """Folder of images. Without sub-folders, or with images beside them, there are no classes."""
    out: Positional[Path]
    """Folder to build into; made if need be."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour."""

    def run(self) -> None:
        self.build(Folder(self.raw, self.channels), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildFaces(Common):
    """Faces drawn by shardgan itself, with what was drawn as attributes; needs no download.

    Example: python -m shards build faces data/faces64
    """

    out: Positional[Path]
    """Folder to build into; made if need be."""
    count: int = 8192
    """Faces to draw."""

    def run(self) -> None:
        if self.count < 1:
            raise InputError(f"--count is {self.count}; it must be at least 1.")
        self.build(Faces(self.count, self.options.seed), self.out)


Kind = (
    Annotated[BuildMnist, subcommand("mnist")]
    | Annotated[BuildCeleba, subcommand("celeba")]
    | Annotated[BuildLsun, subcommand("lsun")]
    | Annotated[BuildFolder, subcommand("folder")]
    | Annotated[BuildFaces, subcommand("faces")]
)


@dataclass(frozen=True)
class Build:
    """Turn raw images into shards. Interrupted, the same command goes on where it was.

    Example: python -m shards build celeba raw/celeba data/celeba64 --size 64
    """

    kind: Kind

    def run(self) -> None:
        self.kind.run()


Command = (
    Annotated[Build, subcommand("build")]
    | Annotated[Index, subcommand("index")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Info, subcommand("info")]
)


def main() -> int:
    """Parse, run, and turn what went wrong into one sentence and an exit code."""
    try:
        command: Build | Index | Verify | Info = tyro.cli(
            Command,
            prog="python -m shards",
            description="Turn raw images into WebDataset shards that train without a pause, and look at them.",
            config=(OmitArgPrefixes, OmitSubcommandPrefixes, PositionalMetavarFromFieldName, DisallowNone),
        )
        command.run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that somebody named
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
