"""What a study trains: its variants, and the config of each of its runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from trainer.config import Config, flatten
from trainer.evaluate.__main__ import Evaluate
from trainer.presets import parse

WHERE = ("out", "threads", "log_every", "data.shards", "data.workers", "checkpoint.", "samples.", "evaluate.",
         "tracking.")  # fmt: skip
"""Fields of a config that do not change what a run learns; the data are compared by their digest, not by path."""
KEEP = 1000  # checkpoints of a run with several marks: one that is asked to stop saves one between them


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    """Also the name of its folder."""
    claim: str
    """What is said about it, for people."""
    flags: tuple[str, ...] = ()
    """Flags of ``trainer/run.py``."""
    kind: str | None = None
    """Networks that only the study has; ``prepare`` registers them."""
    also: int | None = None
    """A further number of images at which this variant is scored, such as that of a given time."""
    prepare: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A function of a module, which changes the trainer for the time of a run in the process of that run."""


@dataclass(frozen=True)
class Plan:
    """What all runs of a study have in common."""

    preset: str
    shards: Path
    out: Path
    """Folder of the study."""
    marks: tuple[int, ...]
    """Images that D has seen when a checkpoint is kept and scored, ascending; the last one is the length of a run."""
    flags: tuple[str, ...] = ()
    """Flags of all runs; those of a variant come after them."""
    features: str = "lite0,pixels"
    """What the scores compare, as ``trainer.evaluate`` takes it."""
    samples: int = 2000
    """Generated images of an evaluation, and real ones."""
    precision: str = "no"
    """Mixed precision of the training, as ``accelerate launch`` takes it."""
    threads: int = 1
    """CPU threads of a run."""

    def run_folder(self, variant: Variant, seed: int) -> Path:
        """The folder of one run."""
        return self.out / "runs" / f"{variant.name}-seed{seed}"

    def log(self, variant: Variant, seed: int) -> Path:
        """What one run printed."""
        return self.out / "logs" / f"{variant.name}-seed{seed}.log"

    def marks_of(self, variant: Variant) -> tuple[int, ...]:
        """The numbers of images at which ``variant`` is scored, ascending."""
        return tuple(sorted({*self.marks, variant.also or self.marks[0]}))

    def config(self, variant: Variant, seed: int, mark: int) -> Config:
        """The config that trains ``variant`` until D has seen ``mark`` images.

        Raises:
            InputError: a flag is wrong, or the images are no whole number of steps.
        """
        several = len(self.marks_of(variant)) > 1
        words = [
            self.preset, "--data.shards", str(self.shards),
            "--out", str(self.run_folder(variant, seed)), "--seed", str(seed), "--threads", str(self.threads),
            "--checkpoint.keep", str(KEEP if several else 1), "--samples.every", "0", "--evaluate.samples", "0",
            "--tracking.mode", "disabled", "--log-every", "20", *self.flags, *variant.flags,
        ]  # fmt: skip
        try:
            config = parse(words)[1]
        except SystemExit as error:
            raise InputError(f"variant {variant.name}: trainer/run.py does not take {' '.join(words)}.") from error
        if variant.kind:  # no flag, because the product does not have these networks
            config = replace(config, model=replace(config.model, kind=variant.kind))  # type: ignore[arg-type]
        a_step = config.batch_size * config.d_steps
        if mark % a_step:
            near = max(1, round(mark / a_step)) * a_step
            raise InputError(
                f"{mark:,} images are no whole number of steps of {a_step:,} images, which {variant.name} takes; "
                f"{near:,} are."
            )
        steps = mark // a_step
        # A run that is killed repeats at most a quarter; between several marks none is saved, because it would stay.
        every = steps if several else math.ceil(steps / 4)
        return replace(config, steps=steps, checkpoint=replace(config.checkpoint, every=every))

    def describe(self, variant: Variant, seed: int) -> dict[str, Any]:
        """What decides the results of one run, JSON-ready.

        Raises:
            InputError: there is no data set in ``shards``.
        """
        marks = self.marks_of(variant)
        trained = self.trained(variant, seed, marks[-1])
        scored = {"marks": list(marks), "samples": self.samples, "features": self.features}
        return {**trained, **scored, "data": read_manifest(self.shards).digest, "precision": self.precision}

    def trained(self, variant: Variant, seed: int, mark: int) -> dict[str, Any]:
        """The fields of :meth:`config` that change what a run learns."""
        fields = flatten(self.config(variant, seed, mark))
        return {name: value for name, value in fields.items() if not name.startswith(WHERE)}


def check_variants(plan: Plan, variants: tuple[Variant, ...]) -> None:
    """Raises ``InputError`` unless all ``variants`` can be trained on equally many images, and scored as asked."""
    Evaluate(plan.out, features=plan.features, samples=plan.samples)
    if not plan.marks or list(plan.marks) != sorted({*plan.marks}) or plan.marks[0] < 1:
        raise InputError(f"The numbers of images {plan.marks} do not ascend.")
    for variant in variants:
        for mark in plan.marks_of(variant):
            plan.config(variant, 0, mark)


def choose(variants: tuple[Variant, ...], names: tuple[str, ...]) -> tuple[Variant, ...]:
    """The ``variants`` with these ``names``, or all for none.

    Raises:
        InputError: there is no variant of a name.
    """
    known = {variant.name: variant for variant in variants}
    if wrong := [name for name in names if name not in known]:
        raise InputError(f"--only {wrong[0]}: there is no such variant. There are {', '.join(known)}.")
    return tuple(variant for variant in variants if variant.name in names) if names else variants
