"""The variants of the ablation, and the images that they see."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ablation import OTHERS, VARIANTS, at
from benchmarks.study import speed
from benchmarks.study.engine import Row
from benchmarks.study.plan import Plan, Variant, check_variants
from tests.support.make import make_shards

SMALL = ("--batch-size", "8", "--model.features-g", "4", "--model.features-d", "4")
RECIPE, TWO = Variant("recipe", ""), Variant("two", "", ("--d-steps", "2"))


def test_each_variant_differs_from_the_preset_of_the_data() -> None:
    plan = Plan("faces", Path("shards"), Path("study"), (15_360,))
    check_variants(plan, VARIANTS)
    recipe, *others = [plan.describe(variant, 0) for variant in VARIANTS]
    assert recipe not in others and len({str(other) for other in others}) == len(others)


def test_the_tutorial_is_the_preset_of_that_name() -> None:
    (tutorial,) = [variant for variant in OTHERS if variant.name == "tutorial"]
    found = Plan("faces", Path("shards"), Path("study"), (15_360,)).describe(tutorial, 0)
    wanted = Plan("tutorial", Path("shards"), Path("study"), (15_360,)).describe(Variant("recipe", ""), 0)
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
