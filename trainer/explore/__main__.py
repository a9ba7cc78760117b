"""``python -m trainer.explore RUN grid|walk|arithmetic``: the command line and the kinds of picture."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, UseAppendAction, subcommand

from shards.common.errors import InputError
from trainer.cli import check_free, conclude, parse_command
from trainer.explore.terms import read_numbers, read_terms

if TYPE_CHECKING:
    from trainer.explore.gallery import Gallery
    from trainer.explore.picture import Picture

MAX_IMAGES = 4096
"""Largest number of images in a grid (64 rows of 64, over 8,000 pixels wide), in the strip of a walk and in its loop.
All are in memory at once, some 100 MB each."""
MAX_FRAMES = 100
STRIP_STEPS = 8
"""Steps from one sample to the next in the strip of a walk."""


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """Options that every kind of picture has."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = (".png", ".json")

    count: int = 64
    """Number of samples in the grid, numbered from 0. A number means the same sample in a grid of any count."""
    seed: int | None = None
    """Seed of the samples; if not given, that of the run, whose samples are also those of the grids in RUN/samples."""
    checkpoint: Path | None = None
    """Checkpoint of RUN to use, such as step-000000480; if not given, the newest whole one."""
    out: Path | None = None
    """Path of the picture, a .png; if not given, in RUN/explore. The .json beside it tells how to make it again."""
    force: bool = False
    """Replace the picture if it exists."""

    @abstractmethod
    def prepare(self, arguments: Sequence[str], /) -> Callable[[Gallery], Picture]:
        """Checks the options and returns the function that draws.

        Raises:
            InputError: an option has no meaning, or a sample number is not in the grid.
        """

    def run(self, run: Path, arguments: Sequence[str]) -> None:
        """Draws the picture of the run in the folder ``run`` that the command line ``arguments`` asks for.

        Raises:
            InputError: the picture cannot be made, or exists already.
        """
        if not 1 <= self.count <= MAX_IMAGES:
            raise InputError(f"--count is {self.count}; a grid has 1 to {MAX_IMAGES} samples.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and less than 2**63.")
        draw = self.prepare(arguments)
        files = self._files(run)
        # Not at the top: torch takes seconds to import, which --help and a typo should not wait for.
        from trainer.explore.gallery import Gallery, origin
        from trainer.folder.load_run import load_run

        loaded = load_run(run, self.checkpoint)
        seed = loaded.config.seed if self.seed is None else self.seed
        picture = draw(Gallery(loaded.generator, seed))
        # The command names the checkpoint, as a newer one may exist by then. Of a repeated flag the last one counts.
        again = ["python", "-m", "trainer.explore", *arguments]
        command = shlex.join([*again, "--checkpoint", str(loaded.checkpoint), "--seed", str(seed)])
        settings = {"count": self.count, "seed": seed, **origin(run, loaded)}
        picture.save(files[0], {"command": command, **picture.metadata, **settings})
        print("\n".join(map(str, files)))

    def _files(self, run: Path) -> list[Path]:
        path = self.out or run / "explore" / f"{self.name}.png"
        if path.suffix != ".png":
            raise InputError(f"--out is {path}; the name of a picture must end in .png.")
        files = [path.with_suffix(suffix) for suffix in self.suffixes]
        if not self.force:
            check_free(files)
        return files


@dataclass(frozen=True, kw_only=True)
class Grid(Kind):
    """Draw a grid of numbered samples, to choose from.

    Example: python -m trainer.explore runs/faces grid --count 100
    """

    name: ClassVar[str] = "grid"

    def prepare(self, _arguments: Sequence[str], /) -> Callable[[Gallery], Picture]:
        return lambda gallery: gallery.grid(self.count)


@dataclass(frozen=True, kw_only=True)
class Walk(Kind):
    """Walk along arcs from sample to sample and back to the first, as a strip (PNG) and an endless loop (GIF).

    Example: python -m trainer.explore runs/faces walk --through 3,17,21,40
    """

    name: ClassVar[str] = "walk"
    suffixes: ClassVar[tuple[str, ...]] = (".png", ".gif", ".json")

    through: str | None = None
    """Comma-separated sample numbers of the grid; if not given, the first --points samples."""
    points: int = 5
    """Number of samples to walk through, without --through."""
    frames: int = 16
    """Frames of the loop from one sample to the next; at most 4,096 in all."""

    def prepare(self, _arguments: Sequence[str], /) -> Callable[[Gallery], Picture]:
        if self.through is not None:
            numbers = read_numbers(self.through, self.count, "--through")
        elif self.points <= self.count:
            numbers = tuple(range(self.points))
        else:
            raise InputError(f"--points is {self.points}; the grid has {self.count} samples. Raise --count too.")
        if len(numbers) < 2:
            raise InputError("A walk needs at least two samples, such as --through 3,17.")
        if not 1 <= self.frames <= MAX_FRAMES:
            raise InputError(f"--frames is {self.frames}; it must be from 1 to {MAX_FRAMES}.")
        images = max(self.frames, STRIP_STEPS + 1)
        if len(numbers) * images > MAX_IMAGES:
            raise InputError(
                f"A walk through {len(numbers)} samples with --frames {self.frames} is too long; at most "
                f"{MAX_IMAGES // images} samples are possible."
            )
        return lambda gallery: gallery.walk(numbers, self.frames, STRIP_STEPS)


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Kind):
    """Add and subtract concepts, as in the DCGAN paper: each is the mean of the latents of a few samples.

    Choose sample numbers from the picture that `grid` draws: some smiling women, some women who do not smile, some men
    who do not smile.

    Example: python -m trainer.explore runs/faces arithmetic --plus 3,17,21 --minus 5,9,11 --plus 2,8,30
    """

    name: ClassVar[str] = "arithmetic"

    plus: UseAppendAction[tuple[str, ...]] = ()
    """Comma-separated sample numbers of a concept to add. May be repeated."""
    minus: UseAppendAction[tuple[str, ...]] = ()
    """The same for a concept to subtract."""

    def prepare(self, arguments: Sequence[str], /) -> Callable[[Gallery], Picture]:
        terms = read_terms(arguments, self.plus, self.minus, self.count)
        return lambda gallery: gallery.arithmetic(terms)


@dataclass(frozen=True)
class Explore:
    """Explore what a run has learnt: draw numbered samples, walk between them, add and subtract them.

    Example: python -m trainer.explore runs/faces grid

    `python -m trainer.explore RUN walk --help` lists the flags of a kind of picture.
    """

    run: Positional[Path]
    """Run folder."""
    kind: (
        Annotated[Grid, subcommand("grid")]
        | Annotated[Walk, subcommand("walk")]
        | Annotated[Arithmetic, subcommand("arithmetic")]
    )


def explore(arguments: Sequence[str]) -> None:
    """Parses ``arguments`` and draws the picture; raises ``InputError`` if it cannot be made."""
    options = parse_command(Explore, "explore", arguments)
    options.kind.run(options.run, arguments)


def main() -> int:
    """Runs the command and returns its exit code."""
    return conclude(lambda: explore(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
