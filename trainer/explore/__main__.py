"""``python -m trainer.explore RUN grid|walk|arithmetic``: the command line and the kinds of picture."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from tyro.conf import Positional, UseAppendAction

from shards.common.errors import InputError
from trainer.cli import check_free, conclude, parse_command

if TYPE_CHECKING:
    from trainer.explore.gallery import Gallery, Picture

Term: TypeAlias = tuple[str, tuple[int, ...]]
"""A concept of a sum: ``+`` or ``-``, and the numbers of samples that have something in common."""

MAX_IMAGES = 4096
"""Largest number of images in a grid, in the strip of a walk and in its loop. All are in memory at once: 100 MB."""
STRIP_STEPS = 8  # from one sample to the next in the strip of a walk


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """Options that every kind of picture has."""

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".json")

    count: int = 64
    """Number of samples in the grid, numbered from 0. A number means the same sample in a grid of any count."""
    seed: int | None = None
    """Seed of the samples; if not given, that of the run, whose samples are also those of the grids in RUN/samples."""
    checkpoint: Path | None = None
    """Checkpoint of RUN to use: best, or a name such as step-000000480; if not given, the newest whole one."""
    out: Path | None = None
    """Path of the picture, a .png; if not given, in RUN/explore. The .json beside it tells how to make it again."""
    force: bool = False
    """Replace the picture if it exists."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= MAX_IMAGES:
            raise InputError(f"--count is {self.count}; a grid has 1 to {MAX_IMAGES} samples.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and less than 2**63.")
        if self.out and self.out.suffix != ".png":
            raise InputError(f"--out is {self.out}; the name of a picture must end in .png.")

    @abstractmethod
    def prepare(self, arguments: Sequence[str], /) -> Callable[[Gallery], Picture]:
        """Checks the options and returns the function that draws; raises ``InputError`` if they make no picture."""


@dataclass(frozen=True, kw_only=True)
class Grid(Kind):
    """Draw a grid of numbered samples, to choose from.

    Example: python -m trainer.explore runs/faces grid --count 100
    """

    def prepare(self, _arguments: Sequence[str], /) -> Callable[[Gallery], Picture]:
        return lambda gallery: gallery.grid(self.count)


@dataclass(frozen=True, kw_only=True)
class Walk(Kind):
    """Walk along arcs from sample to sample and back to the first, as a strip (PNG) and an endless loop (GIF).

    Example: python -m trainer.explore runs/faces walk --through 3,17,21,40
    """

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
        if self.frames < 1:
            raise InputError(f"--frames is {self.frames}; it must be at least 1.")
        images = len(numbers) * max(self.frames, STRIP_STEPS + 1)
        if images > MAX_IMAGES:
            raise InputError(
                f"The walk has {images} images, more than {MAX_IMAGES}. Lower --frames or give fewer samples."
            )
        return lambda gallery: gallery.walk(numbers, self.frames, STRIP_STEPS)


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Kind):
    """Add and subtract concepts, as in the DCGAN paper: each is the mean of the latents of a few samples.

    Choose sample numbers from the picture that `grid` draws: some smiling women, some women who do not smile, some men
    who do not smile.

    Example: python -m trainer.explore runs/faces arithmetic --plus 3,17,21 --minus 5,9,11 --plus 2,8,30
    """

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
    kind: Grid | Walk | Arithmetic


def read_numbers(text: str, count: int, flag: str) -> tuple[int, ...]:
    """Parses comma-separated sample numbers, each in [0, ``count``); an ``InputError`` names ``flag``."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        # int() also accepts signs, underscores and digits of other scripts, and rejects numbers of thousands of digits.
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise InputError(f"{flag} {text!r}: {word!r} is not a sample number. Give numbers such as 3,17,21.")
        if int(word) >= count:
            raise InputError(
                f"{flag} {text!r}: there is no sample {word} in a grid of {count} (0 to {count - 1}). "
                f"Draw a larger grid with --count {int(word) + 1}, and give the same --count here."
            )
    return tuple(int(word) for word in words)


def read_terms(arguments: Sequence[str], plus: Sequence[str], minus: Sequence[str], count: int) -> list[Term]:
    """Parses the values of ``--plus`` and ``--minus``, in their order on the command line ``arguments``.

    tyro collects the values of each flag separately. Raises ``InputError`` as :func:`read_numbers` and without a plus.
    """
    if not plus:
        raise InputError("A sum needs at least one --plus, such as --plus 3,17,21.")
    flags = [argument.partition("=")[0] for argument in arguments]
    values = {"--plus": iter(plus), "--minus": iter(minus)}
    signs = {"--plus": "+", "--minus": "-"}
    return [(signs[flag], read_numbers(next(values[flag]), count, flag)) for flag in flags if flag in values]


def explore(arguments: Sequence[str]) -> None:
    """Parses ``arguments`` and draws the picture; raises ``InputError`` if it cannot be made or exists already."""
    options = parse_command(Explore, "explore", arguments)
    run, kind = options.run, options.kind
    draw = kind.prepare(arguments)
    path = kind.out or run / "explore" / f"{type(kind).__name__.lower()}.png"
    files = [path.with_suffix(suffix) for suffix in kind.suffixes]
    check_free(files, force=kind.force)
    # Not at the top: torch takes seconds to import, which --help and a typo should not wait for.
    from trainer.explore.gallery import Gallery, origin
    from trainer.folder.load_run import load_run

    loaded = load_run(run, kind.checkpoint)
    seed = loaded.config.seed if kind.seed is None else kind.seed
    picture = draw(Gallery(loaded.generator, seed))
    # The command names the checkpoint, as a newer one may exist by then. Of a repeated flag the last one counts.
    again = ["python", "-m", "trainer.explore", *arguments, "--checkpoint", str(loaded.checkpoint), "--seed", str(seed)]
    settings = {"count": kind.count, "seed": seed, **origin(run, loaded)}
    picture.save(path, {"command": shlex.join(again), **picture.metadata, **settings})
    print("\n".join(map(str, files)))


if __name__ == "__main__":
    sys.exit(conclude(lambda: explore(sys.argv[1:])))
