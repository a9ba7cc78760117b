"""All variants see equally many images, whatever their steps are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.claims import CLAIMS
from benchmarks.study.command import DCGAN
from benchmarks.study.plan import Plan, Variant, check_variants, choose
from shards.common.errors import InputError

PRESET, *FLAGS = DCGAN
PLAN = Plan(PRESET, Path("shards"), Path("study"), (640,), (*FLAGS, "--batch-size", "64"))


@settings(max_examples=5, deadline=None)  # the trainer's command line takes 40 ms to parse
@given(batch=st.integers(1, 64), k=st.integers(1, 8), count=st.integers(1, 50))
def test_steps_times_images_of_a_step_are_the_images_asked_for(batch: int, k: int, count: int) -> None:
    plan, variant = replace(PLAN, flags=("--batch-size", str(batch))), Variant("k", "", ("--d-steps", str(k)))
    config = plan.config(variant, 0, count * batch * k)
    assert config.steps is not None
    assert config.steps * config.batch_size * config.d_steps == count * batch * k
    if k > 1:
        with pytest.raises(InputError, match="whole number of steps"):
            plan.config(variant, 0, count * batch * k + 1)


def test_each_claim_differs_from_the_recipe_and_from_no_other_in_what_it_learns(faces32: Path) -> None:
    plan = replace(PLAN, shards=faces32)
    check_variants(plan, CLAIMS)
    recipe, *others = [plan.describe(variant, 1) for variant in CLAIMS]
    prepared = [variant.prepare for variant in CLAIMS[1:]]
    for other, change in zip(others, prepared, strict=True):
        changed = {name for name in recipe if recipe[name] != other[name]}
        assert changed or change is not Variant("", "").prepare
        assert len(changed) <= 2, "one change at a time; a rate is that of both networks"
        assert recipe["steps"] * recipe["d_steps"] == other["steps"] * other["d_steps"]
    assert len({variant.name for variant in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize(
    ("plan", "variant", "words"),
    [
        (PLAN, Variant("v", "", ("--d-steps", "0")), "d-steps"),
        (PLAN, Variant("v", "", ("--epochs", "2")), "--steps and --epochs"),
        (PLAN, Variant("v", "", ("--no-such-flag", "2")), "does not take"),
        (replace(PLAN, marks=(640, 640)), Variant("v", ""), "do not ascend"),
        (replace(PLAN, marks=()), Variant("v", ""), "do not ascend"),
        (replace(PLAN, features="foo"), Variant("v", ""), "--features foo"),
        (replace(PLAN, samples=3), Variant("v", ""), "at least 100"),
    ],
)
def test_bad_input_is_one_line(plan: Plan, variant: Variant, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        check_variants(plan, (variant,))
    assert "\n" not in str(error.value)


def test_variants_are_chosen_by_name() -> None:
    assert [variant.name for variant in choose(CLAIMS, ("k-2", "recipe"))] == ["recipe", "k-2"]
    assert choose(CLAIMS, ()) == CLAIMS
    with pytest.raises(InputError, match=r"--only foo: .* recipe, no-batch-norm"):
        choose(CLAIMS, ("foo",))
