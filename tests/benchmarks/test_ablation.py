"""The variants of the ablation, and the images that they see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.ablation import CHANGES, RECIPE, at, variants_of
from benchmarks.study import speed
from benchmarks.study.command import RAW, Data
from benchmarks.study.engine import Row
from benchmarks.study.plan import Plan, Variant, check_variants
from tests.support.make import make_shards
from trainer.gan.losses import discriminator_loss, relative
from trainer.presets import PRESETS

SMALL = ("--batch-size", "8", "--model.features-g", "4", "--model.features-d", "4")
TWO = Variant("two", "", ("--d-steps", "2"))


@pytest.mark.parametrize("data", RAW)
def test_each_variant_differs_from_the_preset_of_the_data_and_from_the_others(data: Data, faces32: Path) -> None:
    variants, plan = variants_of(data), Plan(data, faces32, Path("study"), (15_360,))
    check_variants(plan, variants)
    learnt = [plan.describe(variant, 0) for variant in variants]
    assert len({str(one) for one in learnt}) == len(variants)
    absent = {"faces": set(), "mnist": {"no-coarse", "large-batch"}, "celeba": {"large-batch"}}[data]
    assert CHANGES.keys() - {variant.name for variant in variants} == absent


@pytest.mark.parametrize("data", RAW)
def test_losses_that_are_means_have_half_of_the_penalties(data: Data, faces32: Path) -> None:
    """The gradient of D's loss at equal logits, over the weight of R1, is then that of the recipe."""
    plan, slopes = Plan(data, faces32, Path("study"), (15_360,)), {}
    for variant in variants_of(data):
        config = plan.config(variant, 0, 15_360)
        if variant.name in ("recipe", "cross-entropy"):
            logits = torch.zeros(2, requires_grad=True)
            real, fake = logits.split(1)
            pair = (relative(real, fake), relative(fake, real)) if config.loss == "relativistic" else (real, fake)
            discriminator_loss(*pair, config.loss).backward()
            slopes[variant.name] = logits.grad / config.penalty.r1
        if variant.name in ("cross-entropy", "hinge", "least-squares"):
            assert config.penalty == replace(PRESETS[data][1].penalty, r1=config.penalty.r1, r2=config.penalty.r1)
    assert torch.equal(slopes["recipe"], slopes["cross-entropy"])


def test_the_tutorial_is_the_preset_of_that_name(faces32: Path) -> None:
    (tutorial,) = [variant for variant in variants_of("faces") if variant.name == "tutorial"]
    found = Plan("faces", faces32, Path("study"), (15_360,)).describe(tutorial, 0)
    wanted = Plan("tutorial", faces32, Path("study"), (15_360,)).describe(RECIPE, 0)
    differ = {name for name in wanted if wanted[name] != found[name]}
    assert differ == {"model.features_g", "model.features_d", "default_steps"}  # the widths are flags of the study


def test_times_are_measured_once_and_give_the_images_of_equal_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    make_shards(tmp_path / "shards")
    plan = Plan("tutorial", tmp_path / "shards", tmp_path / "study", (160,), SMALL)
    recipe, two = speed.with_equal_time(plan, (RECIPE, TWO), RECIPE)
    assert recipe.also == 160
    assert two.also is not None and two.also % 16 == 0
    assert speed.with_equal_time(plan, (TWO,), RECIPE) == (two,)


def test_the_scores_of_one_mark_and_the_rarest_class() -> None:
    row = Row("two", 0, {"marks": [16, 32]}, ({"swd": 3.0}, {"class-1": 0.2, "class-0": 0.1, "class-coverage": 0.05}))
    assert at(row, 16).scores == ({"swd": 3.0},)
    assert at(row, 32).scores[0]["least-class"] == 0.1
    failed = Row("two", 1, {}, error="diverged")
    assert at(failed, 16) is failed
