"""The commands ``python -m shards build``, with one sub-command per kind of source, and ``join``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg, subcommand

from shards.building.build import build
from shards.building.parts import Share, build_part, join
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import MANIFEST, Manifest, describe_manifest
from shards.sources.celeba import Celeba
from shards.sources.faces import Faces
from shards.sources.folder import Folder
from shards.sources.lsun import Lsun
from shards.sources.mnist import Mnist
from shards.sources.source import Source

Out = Annotated[Positional[Path], arg(help="Output folder; created if necessary.")]
DEFAULTS = Options(format="jpg")
LOSSLESS = Options(format="png")


@dataclass(frozen=True, kw_only=True)
class BuildCommand:
    """Flags that every source has."""

    options: Annotated[Options, arg(name="build")] = DEFAULTS
    workers: int | None = None
    """Worker processes, one per core by default. They change only the speed."""
    part: int | None = None
    """Build only this part of the shards, from 1 to PARTS, while other machines build the other ones into the same
    folder. The last one completes the data set; python -m shards join does it too."""
    parts: int | None = None
    """Number of parts. The bytes of the data set do not depend on it."""

    def build(self, source: Source, out: Path) -> None:
        complete, share = (out / MANIFEST).exists(), self._share()
        if share is None:
            _report(out, complete, build(source, out, self.options, self.workers))
        elif manifest := build_part(source, out, share, self.options, self.workers):
            _report(out, complete, manifest)
        else:
            print(f"Built {share}. The last one completes {out}.", file=sys.stderr)

    def _share(self) -> Share | None:
        if self.part is None and self.parts is None:
            return None
        if self.part is None or self.parts is None:
            raise InputError("--part I and --parts N go together: part I of N, counted from 1.")
        return Share(self.part, self.parts)


def _report(out: Path, complete: bool, manifest: Manifest) -> None:
    print(f"{out} was built before; nothing to do." if complete else f"{out} is built.", file=sys.stderr)
    print(describe_manifest(manifest))


@dataclass(frozen=True, kw_only=True)
class BuildMnist(BuildCommand):
    """MNIST and compatible data sets (EMNIST, QMNIST, ...): grey pictures with labels, from IDX files.

    Example: python -m shards build mnist raw/mnist data/mnist64
    """

    raw: Positional[Path]
    """Folder with train-images-idx3-ubyte and the other files, gzipped or not; one of the files, if it holds several
    sets."""
    out: Out
    split: Literal["train", "test", "all"] = "train"
    """60,000 images for training, 10,000 for testing, or both in this order."""
    options: Annotated[Options, arg(name="build")] = LOSSLESS

    def run(self) -> None:
        self.build(Mnist(self.raw, self.split), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildCeleba(BuildCommand):
    """CelebA: aligned faces, with attributes and split if their lists are present.

    Example: python -m shards build celeba raw/celeba data/celeba64
    """

    raw: Positional[Path]
    """Folder with img_align_celeba or img_align_celeba.zip, or one of these itself. A zip is read without unpacking."""
    out: Out
    crop: int = 178
    """Side of the centred square to keep, in pixels of 178x218: 178 keeps the hair, 108 (DCGAN papers) the face."""
    split: Literal["all", "train", "valid", "test"] = "all"
    """CelebA's own split; needs list_eval_partition.txt or .csv."""

    def run(self) -> None:
        self.build(Celeba(self.raw, self.crop, self.split), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildLsun(BuildCommand):
    """LSUN: scenes or objects from its LMDBs; several categories become classes.

    Example: python -m shards build lsun raw/lsun data/lsun64 --categories bedroom,church_outdoor --dedup
    """

    raw: Positional[Path]
    """An unzipped LMDB, such as bedroom_train_lmdb or cat, or the folder that holds several."""
    out: Out
    categories: str = ""
    """Comma-separated names, in the order of the labels. By default all categories, in alphabetical order."""
    split: Literal["train", "val", "all"] = "train"
    """Which LMDBs of a folder to read; ignored if RAW is itself an LMDB."""

    def run(self) -> None:
        categories = tuple(name.strip() for name in self.categories.split(",") if name.strip())
        self.build(Lsun(self.raw, categories, self.split), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildFolder(BuildCommand):
    """Any folder of images, at any depth; the first-level sub-folder is the class.

    Example: python -m shards build folder raw/flowers data/flowers64 --skip-bad
    """

    raw: Positional[Path]
    """Folder of images. Without sub-folders, or with images beside them, there are no classes."""
    out: Out
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour."""

    def run(self) -> None:
        self.build(Folder(self.raw, self.channels), self.out)


@dataclass(frozen=True, kw_only=True)
class BuildFaces(BuildCommand):
    """Faces that shardgan draws, with their attributes; needs no download.

    Example: python -m shards build faces data/faces64
    """

    out: Out
    count: int = 8192
    """Number of faces."""

    def run(self) -> None:
        if self.count < 1:
            raise InputError(f"--count is {self.count}; it must be at least 1.")
        self.build(Faces(self.count, self.options.seed), self.out)


@dataclass(frozen=True)
class Build:
    """Turn raw images into shards. If interrupted, the same command resumes.

    Example: python -m shards build celeba raw/celeba data/celeba64 --size 64
    """

    kind: (
        Annotated[BuildMnist, subcommand("mnist")]
        | Annotated[BuildCeleba, subcommand("celeba")]
        | Annotated[BuildLsun, subcommand("lsun")]
        | Annotated[BuildFolder, subcommand("folder")]
        | Annotated[BuildFaces, subcommand("faces")]
    )

    def run(self) -> None:
        self.kind.run()


@dataclass(frozen=True)
class Join:
    """Complete a data set that was built with --part: write its manifest and index.

    The last part does it too, unless the file system hides from it what other nodes have just written. Names the parts
    that are not finished.

    Example: python -m shards join data/celeba64
    """

    out: Positional[Path]
    """Folder of the parts."""

    def run(self) -> None:
        complete = (self.out / MANIFEST).exists()
        _report(self.out, complete, join(self.out))
