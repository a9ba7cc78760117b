"""The variants of the ablation, and the images that they see."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from benchmarks import ablation
from benchmarks.ablation import CHANGES, RECIPE, at, variants_of
from benchmarks.rivals.contestants import Shardgan, create
from benchmarks.study import speed
from benchmarks.study.command import RAW, Data
from benchmarks.study.engine import RESULTS, Row
from benchmarks.study.plan import Plan, Variant, check_variants
from shards.common.errors import InputError
from tests.support.make import make_shards
from trainer.gan.losses import discriminator_loss, relative
from trainer.presets import PRESETS, parse

SMALL = ("--batch-size", "8", "--model.features-g", "4", "--model.features-d", "4")
TWO = Variant("two", "", ("--d-steps", "2"))


@pytest.mark.parametrize("data", RAW)
def test_each_variant_differs_from_the_preset_of_the_data_and_from_the_others(data: Data, faces32: Path) -> None:
    variants, plan = variants_of(data), Plan(data, faces32, Path("study"), (15_360,))
    check_variants(plan, variants)
    learnt = [plan.describe(variant, 0) for variant in variants]
    assert len({str(one) for one in learnt}) == len(variants)
    absent = {
        "faces": set(),
        "mnist": {"no-coarse", "large-batch", "long-latents"},
        "celeba": {"large-batch", "long-latents"},
    }[data]
    assert CHANGES.keys() - {variant.name for variant in variants} == absent


@pytest.mark.parametrize("data", RAW)
def test_penalties_weigh_the_same_beside_each_loss(data: Data, faces32: Path) -> None:
    """The gradient of D's loss for the logit of a real image, over the weight of R1, where D is undecided."""
    plan, slopes = Plan(data, faces32, Path("study"), (15_360,)), {}
    for variant in variants_of(data):
        config = plan.config(variant, 0, 15_360)
        if variant.name in ("recipe", "cross-entropy", "hinge", "least-squares"):
            undecided = 0.5 if config.loss == "least-squares" else 0.0  # halfway between its targets
            real, fake = (torch.full((1,), undecided, requires_grad=True) for _ in range(2))
            pair = (relative(real, fake), relative(fake, real)) if config.loss == "relativistic" else (real, fake)
            (slope,) = torch.autograd.grad(discriminator_loss(*pair, config.loss), real)
            slopes[variant.name] = slope.item() / config.penalty.r1
            assert config.penalty == replace(PRESETS[data][1].penalty, r1=config.penalty.r1, r2=config.penalty.r1)
    assert len(slopes) == 4 and set(slopes.values()) == {slopes["recipe"]}


def test_the_tutorial_is_the_preset_of_that_name(faces32: Path) -> None:
    (tutorial,) = [variant for variant in variants_of("faces") if variant.name == "tutorial"]
    found = Plan("faces", faces32, Path("study"), (15_360,)).describe(tutorial, 0)
    wanted = Plan("tutorial", faces32, Path("study"), (15_360,)).describe(RECIPE, 0)
    differ = {name for name in wanted if wanted[name] != found[name]}
    assert differ == {"model.features_g", "model.features_d", "default_steps"}  # the widths are those of the recipe


def test_times_give_the_images_of_equal_time_and_belong_to_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of two batches that takes three times as long has 1.5 times the time of an image."""
    steps = []

    def timed(step: Shardgan, _: torch.Tensor, count: int) -> float:
        steps.append(step.config.d_steps)
        return {1: 1.0, 2: 3.0}[step.config.d_steps] * count

    monkeypatch.setattr(speed, "timed", timed)
    make_shards(tmp_path / "shards")
    plan = Plan("tutorial", tmp_path / "shards", tmp_path / "study", (160,), SMALL)
    recipe, two = speed.with_equal_time(plan, (RECIPE, TWO), RECIPE)
    assert (recipe.also, two.also) == (160, 112)  # 160 / 1.5, in steps of 16 images
    measured = len(steps)
    assert speed.with_equal_time(plan, (TWO,), RECIPE) == (two,) and len(steps) == measured
    again = replace(TWO, flags=(*TWO.flags, "--loss", "hinge"))  # another variant of the same name
    assert speed.with_equal_time(plan, (again,), RECIPE)[0].also == 112 and len(steps) > measured
    shorter = replace(plan, marks=(80,))  # a step takes as long
    assert speed.with_equal_time(shorter, (RECIPE,), RECIPE)[0].also == 80
    for change, words in (
        ({"threads": 2}, "other threads: 1, now 2"),
        ({"precision": "bf16"}, "other precision: no, now bf16"),
        ({"flags": (*SMALL, "--loss", "hinge")}, "other loss: non-saturating, now hinge"),
    ):
        with pytest.raises(InputError, match=rf"{words}.* Give another --out\.$"):
            speed.with_equal_time(replace(plan, **change), (TWO,), RECIPE)
    (plan.out / speed.TIMES).write_text('{"recipe": 1.0}')  # of an earlier version
    with pytest.raises(InputError, match="does not hold the times"):
        speed.with_equal_time(plan, (TWO,), RECIPE)


@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_a_step_with_two_updates_of_d_is_timed_with_two_batches(accumulate: str) -> None:
    config = parse(["tutorial", *SMALL, *TWO.flags, "--augment.policy", "color", "--accumulate", accumulate])[1]
    step = create(config, Accelerator(cpu=True))
    step(torch.zeros(8, 64, 64, 3, dtype=torch.uint8))
    counts = [
        {int(value) for name, value in optimizer.tensors().items() if name.endswith(".step")}
        for optimizer in (step.state.discriminator_optim, step.state.generator_optim)
    ]
    assert counts == [{2}, {1}] and step.state.position == 16


def test_a_part_of_a_study_shows_all_of_it(tmp_path: Path, faces32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is that of the folder, not of the last call."""
    monkeypatch.setattr(speed, "measure", lambda _, variants: dict.fromkeys(variants, 1.0))
    plans = []

    def run_study(plan: Plan, variants: Sequence[Variant], seeds: Sequence[int], _: int) -> None:
        plans.append(plan)
        with (plan.out / RESULTS).open("a") as file:
            for variant, seed in itertools.product(variants, seeds):
                asked = plan.describe(variant, seed)
                row = Row(variant.name, seed, asked, tuple({"swd-64": 7.0} for _ in asked["marks"]))
                file.write(json.dumps(vars(row), default=str) + "\n")

    monkeypatch.setattr(ablation, "run_study", run_study)
    arguments = ablation.Arguments(shards=faces32, out=tmp_path, scores="pixels", precision="no")
    ablation.benchmark(replace(arguments, only=("no-r2", "hinge"), seeds=2))
    ablation.benchmark(replace(arguments, only=("recipe",), seeds=1))
    ablation.benchmark(replace(arguments, only=("low-rate",), seeds=1, samples=500))
    table = (tmp_path / "table.md").read_text()
    assert "low-rate" in table and "hinge" not in table  # scored otherwise
    ablation.benchmark(replace(arguments, only=("augmented",), seeds=1))
    lines = (tmp_path / "table.md").read_text().splitlines()
    wanted = [f"| {name} | {runs} | 7" for name, runs in (("recipe", 1), ("no-r2", 2), ("hinge", 2), ("augmented", 1))]
    found = [line for line in lines if line.startswith("| ") and " 7 " in line]
    assert [line.startswith(start) for line, start in zip(found, 2 * wanted, strict=True)] == [True] * 8


def test_the_scores_of_one_mark_and_the_rarest_class() -> None:
    row = Row("two", 0, {"marks": [16, 32]}, ({"swd": 3.0}, {"class-1": 0.2, "class-0": 0.1, "class-coverage": 0.05}))
    assert at(row, 16).scores == ({"swd": 3.0},)
    assert at(row, 32).scores[0]["least-class"] == 0.1
    failed = Row("two", 1, {}, error="diverged")
    assert at(failed, 16) is failed
