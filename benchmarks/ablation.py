"""Tests what each part of the default recipe is worth: takes one away or replaces it, at equal images and equal time.

All variants train on the same images with the same seeds and widths. Each is scored twice: after --images images, and
after the time that the recipe of the preset takes for them. For the latter, a step of each is timed first. Results,
logs and one grid of samples for each variant are kept in the folder of the study. The same command again continues it,
--only and --seeds do a part. docs/quality.md shows the results.

Example: uv run --extra scores python -m benchmarks.ablation --data faces --only recipe tutorial --seeds 1 --images 3840
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from benchmarks.measure import cli
from benchmarks.study import command
from benchmarks.study.engine import Row, read_rows, read_study, run_study
from benchmarks.study.plan import Variant, check_variants, choose
from benchmarks.study.speed import with_equal_time
from benchmarks.study.table import render
from trainer.presets import PRESETS, parse

NO_PENALTY = "--penalty.r1 0 --penalty.r2 0 --penalty.every 1"
OLD_ADAM = "--optim.beta1 0.5 --optim.beta2 0.999"
BATCH_NORM = f"--model.norm-d batch --model.no-coarse-d {NO_PENALTY}"
LONG_LATENTS = "--model.z-dim 100"
DCGAN = f"--loss non-saturating {BATCH_NORM} --model.upsampling transposed {LONG_LATENTS} {OLD_ADAM}"
HALF = "--penalty.r1 {r1} --penalty.r2 {r2}"
"""Half of the preset's weights. Where D is undecided, cross-entropy has half the slope of the relativistic loss, so
half the penalty weighs as much beside it. Hinge and least squares have the full slope.
"""
TUTORIAL = f"{DCGAN} --model.bn-init-mean 0 --batch-size 128 --optim.lr-g 2e-4 --optim.lr-d 2e-4 --ema-images 0"
RECIPE = Variant("recipe", "The preset.")
CHANGES = {
    "tutorial": ("The recipe of the tutorial.", TUTORIAL),
    "dcgan": ("DCGAN, tuned for short trainings.", f"{DCGAN} --batch-size 32 --optim.lr-g 1e-3 --optim.lr-d 4e-4"),
    "no-coarse": ("Without the part of the discriminator that sees mean colours.", "--model.no-coarse-d"),
    "no-r2": ("R1 alone.", "--penalty.r2 0"),
    "no-penalty": ("Neither R1 nor R2.", NO_PENALTY),
    "cross-entropy": ("The loss of the tutorial, with the penalties.", f"--loss non-saturating {HALF}"),
    "hinge": ("Hinge loss, with the penalties.", "--loss hinge"),
    "least-squares": ("Least squares, with the penalties.", "--loss least-squares"),
    "batch-norm": ("BatchNorm in the discriminator, which allows neither penalties nor the coarse part.", BATCH_NORM),
    "transposed": ("The transposed convolutions of the tutorial.", "--model.upsampling transposed"),
    "long-latents": ("The latents of the tutorial, of 100 values.", LONG_LATENTS),
    "old-adam": ("The betas of the tutorial.", OLD_ADAM),
    "low-rate": ("A rate of 6e-4.", "--optim.lr-g 6e-4 --optim.lr-d 6e-4"),
    "large-batch": ("Batches of 64.", "--batch-size 64"),
    "no-average": ("Without the average of the generator.", "--ema-images 0"),
    "augmented": ("With augmentation.", "--augment.policy color,translation,cutout"),
}
"""Claim and flags by name."""
COLUMNS = ("fd-labels", "kd-labels", "least-class", "kd-lite0", "coverage-lite0", "swd-64", "swd-32", "swd-16",
           "ms-ssim")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Arguments(command.Arguments):
    """Scores of the recipe, and of it without each of its parts."""

    data: command.Data = "faces"
    """Also the preset. Without --shards, the images are packed first: drawn faces at 64x64, or, from
    $SHARDGAN_DATA/mnist and celeba, digits at 32x32 and photographs of faces at 64x64."""
    only: tuple[str, ...] = ()
    """Variants to train; by default all."""
    features: int | None = None
    """Width of both networks; by default those of the preset. Those of celeba, 64, take hours on a CPU."""
    images: int = 15_360
    """Real images that the discriminator of each run sees."""


def variants_of(data: command.Data) -> tuple[Variant, ...]:
    """The recipe of the preset ``data``, and its changes but for those that it has itself."""
    recipe = PRESETS[data][1]
    half = {"r1": recipe.penalty.r1 / 2, "r2": recipe.penalty.r2 / 2}
    changes = [Variant(name, claim, tuple(flags.format(**half).split())) for name, (claim, flags) in CHANGES.items()]
    return RECIPE, *(variant for variant in changes if parse([data, *variant.flags])[1] != recipe)


def at(row: Row, images: int) -> Row:
    """``row`` with the scores after ``images`` alone, and with the share of the rarest class, if images have one."""
    if row.error is not None:
        return row
    scores = dict(row.scores[row.asked["marks"].index(images)])
    shares = [value for name, value in scores.items() if name.startswith("class-") and name != "class-coverage"]
    return replace(row, scores=({**scores, **({"least-class": min(shares)} if shares else {})},))


def benchmark(arguments: Arguments) -> None:
    """Trains and scores what is missing, and reports all results."""
    variants = variants_of(arguments.data)
    chosen = choose(variants, arguments.only)
    plan = arguments.plan("ablation", (arguments.images,), arguments.data)
    check_variants(plan, chosen)
    run_study(plan, with_equal_time(plan, chosen, RECIPE), range(arguments.seeds), arguments.jobs)
    known = {row.variant for row in read_rows(plan.out)}
    timed = with_equal_time(plan, [variant for variant in variants if variant.name in known], RECIPE)
    rows = read_study(plan, timed)
    shown = {row.variant for row in rows}
    images = {variant.name: variant.also or arguments.images for variant in timed if variant.name in shown}
    equal_images = render([at(row, arguments.images) for row in rows], COLUMNS)
    equal_time = render([at(row, images[row.variant]) for row in rows], COLUMNS)
    lengths = ", ".join(f"{name} {count:,}" for name, count in images.items())
    command.report(
        arguments,
        plan,
        rows,
        f"Equal images:\n\n{equal_images}",
        f"Equal time, that of the recipe for {arguments.images:,} images. Images seen: {lengths}.\n\n{equal_time}",
    )


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
