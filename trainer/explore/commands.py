"""The kinds of picture as the command line knows them: what can be asked for, and what is wrong with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tyro.conf import UseAppendAction

from shards.common.errors import InputError
from trainer.cli import check_free
from trainer.explore.record import origin, write
from trainer.explore.terms import REACH, STRIP, VARIATIONS, read_numbers, read_terms

if TYPE_CHECKING:  # torch takes seconds to import, and --help or a typo should not wait for it
    from trainer.explore.gallery import Drawn, Gallery

LARGEST = 4096
"""Images on a sheet: 64 rows of 64, over 8,000 pixels wide. Of a walk's strip, and of its loop, as many: all are in
memory at once, some 100 MB each."""
MOST_FRAMES = 100


@dataclass(frozen=True)
class Plan:
    """A picture that can be made: nothing in what was asked for is wrong."""

    facts: dict[str, Any]
    """What it shows, for the record."""
    draw: Callable[[Gallery], Drawn]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every kind of picture shares."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = (".png", ".json")

    count: int = 64
    """Samples on the sheet, numbered from 0. A number is the same sample on a sheet of any count."""
    seed: int | None = None
    """What the samples are drawn from; unless given the run's, whose samples stand on the sheets in RUN/samples too."""
    checkpoint: Path | None = None
    """The checkpoint of RUN to take the networks from, such as step-000000480; the newest whole one unless given."""
    out: Path | None = None
    """The picture, a .png; unless given one in RUN/explore. The .json beside it tells how to make it again."""
    force: bool = False
    """Replace the picture if it is there."""

    def plan(self, words: Sequence[str], /) -> Plan:
        """What the command line ``words`` asks for.

        Raises:
            InputError: a number is none, or is not on the sheet.
        """
        raise NotImplementedError

    def run(self, run: Path, words: Sequence[str]) -> None:
        """Make the picture of ``run`` that the command line ``words`` asks for.

        Raises:
            InputError: it cannot be made, or is there already.
        """
        if not 1 <= self.count <= LARGEST:
            raise InputError(f"--count is {self.count}; a sheet holds 1 to {LARGEST} samples.")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}; it must be at least 0 and less than 2**63.")
        plan = self.plan(words)
        files = self._files(run)
        from trainer.explore.gallery import Gallery
        from trainer.folder.load_run import load_run

        loaded = load_run(run, self.checkpoint)
        seed = loaded.config.seed if self.seed is None else self.seed
        drawn = plan.draw(Gallery(loaded.generator, seed))
        # What was left to chance is said: another checkpoint may be the newest then. Of a flag the last one counts.
        again = [*words, "--checkpoint", str(loaded.checkpoint), "--seed", str(seed)]
        facts = {"command": shlex.join(["python", "-m", "trainer.explore", *again]), **plan.facts}
        write(files[0], drawn.picture, drawn.loop, facts | {"count": self.count, "seed": seed} | origin(run, loaded))
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
class Grid(Common):
    """A sheet of samples with their numbers, to choose from.

    Example: python -m trainer.explore runs/faces grid --count 100
    """

    name: ClassVar[str] = "grid"

    def plan(self, _words: Sequence[str], /) -> Plan:
        facts = {"picture": "grid", "numbers": [*range(self.count)]}
        return Plan(facts, lambda gallery: gallery.grid(self.count))


@dataclass(frozen=True, kw_only=True)
class Walk(Common):
    """From sample to sample along arcs, and back to the first: a strip (PNG) and an endless loop (GIF).

    Example: python -m trainer.explore runs/faces walk --through 3,17,21,40
    """

    name: ClassVar[str] = "walk"
    suffixes: ClassVar[tuple[str, ...]] = (".png", ".gif", ".json")

    through: str | None = None
    """Numbers from the sheet, with commas between them; the first --points of it unless given."""
    points: int = 5
    """How many samples to walk through, where --through names none."""
    frames: int = 16
    """Frames of the loop from one sample to the next, 4,096 in all at most."""

    def plan(self, _words: Sequence[str], /) -> Plan:
        if self.through is not None:
            numbers = read_numbers(self.through, self.count, "--through")
        elif self.points <= self.count:
            numbers = tuple(range(self.points))
        else:
            raise InputError(f"--points is {self.points}; the sheet has {self.count} samples. Raise --count too.")
        if len(numbers) < 2:
            raise InputError("A walk needs two samples or more, such as --through 3,17.")
        if not 1 <= self.frames <= MOST_FRAMES:
            raise InputError(f"--frames is {self.frames}; it must be from 1 to {MOST_FRAMES}.")
        images = max(self.frames, STRIP + 1)
        if len(numbers) * images > LARGEST:
            raise InputError(
                f"A walk through {len(numbers)} samples in {self.frames} frames each is too long: with --frames "
                f"{self.frames} at most {LARGEST // images} samples."
            )
        facts = {"picture": "walk", "through": numbers, "frames": self.frames}
        return Plan(facts, lambda gallery: gallery.walk(numbers, self.frames))


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Common):
    """Sums of concepts, as in the DCGAN paper: the latents of each concept's samples are averaged, the averages added.

    Pick numbers from the sheet that `grid` draws: some smiling women, some women who do not smile, some men who do not.

    Example: python -m trainer.explore runs/faces arithmetic --plus 3,17,21 --minus 5,9,11 --plus 2,8,30
    """

    name: ClassVar[str] = "arithmetic"

    plus: UseAppendAction[tuple[str, ...]] = ()
    """Numbers of a concept's samples, with commas between them."""
    minus: UseAppendAction[tuple[str, ...]] = ()
    """The same for a concept to take away."""

    def plan(self, words: Sequence[str], /) -> Plan:
        terms = read_terms(words, self.plus, self.minus, self.count)
        noise = {"count": VARIATIONS, "noise": "uniform", "reach": REACH}
        facts = {"picture": "arithmetic", "terms": [asdict(term) for term in terms], "variations": noise}
        return Plan(facts, lambda gallery: gallery.arithmetic(terms))
