from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import Config
from trainer.gan.schedule import Settings, cosine, settings
from trainer.recipe import Augment, Optim, Penalty, Schedule

VALUES, IMAGES = st.floats(0, 1e6), st.integers(1, 10**9)
CONFIG = Config(optim=Optim(2e-4, 1e-4, 0.0, 0.9), penalty=Penalty(2.0, 1.0), ema_images=100,
                augment=Augment("cutout", 0.8))  # fmt: skip
START = Settings(lr_g=2e-4, lr_d=1e-4, beta2=0.9, r1=2.0, r2=1.0, ema_images=100, augment=0.8)


@hypothesis.settings(deadline=None)
@given(VALUES, VALUES, IMAGES, st.integers(0, 10**9))
def test_a_cosine_starts_and_ends_exactly(start: float, end: float, images: int, more: int) -> None:
    assert cosine(start, end, 0, images) == start
    assert cosine(start, end, images + more, images) == end


@hypothesis.settings(deadline=None)
@given(VALUES, VALUES, IMAGES, st.lists(st.integers(0, 10**9), min_size=2, max_size=20))
def test_a_cosine_goes_one_way(start: float, end: float, images: int, positions: list[int]) -> None:
    """To the rounding of a double."""
    found = [cosine(start, end, position, images) for position in sorted(positions)]
    slack = 4 * math.ulp(max(start, end))
    for before, after in pairwise(found):
        assert (after - before) * math.copysign(1, end - start) >= -slack
    assert all(min(start, end) - slack <= value <= max(start, end) + slack for value in found)


def test_a_cosine_is_half_way_in_the_middle_and_slow_at_both_ends() -> None:
    assert cosine(1.0, 3.0, 50, 100) == pytest.approx(2.0)
    assert cosine(0.0, 1.0, 10, 100) == pytest.approx((1 - math.cos(math.pi / 10)) / 2)
    assert cosine(0.0, 1.0, 10, 100) + cosine(0.0, 1.0, 90, 100) == pytest.approx(1.0)


@hypothesis.settings(deadline=None)
@given(st.integers(0, 10**12))
def test_without_a_schedule_nothing_changes(position: int) -> None:
    assert settings(CONFIG, position) == START


ENDS = {"lr_g": 5e-5, "lr_d": 2e-5, "beta2": 0.99, "r1": 0.2, "r2": 0.0, "ema_images": 5000, "augment": 0.1}


@pytest.mark.parametrize("name", ENDS)
def test_each_setting_goes_from_its_own_flag_to_its_end(name: str) -> None:
    config = replace(CONFIG, schedule=Schedule(images=1000, **{name: ENDS[name]}))
    assert settings(config, 0) == START
    assert settings(config, 1000) == settings(config, 10**9) == replace(START, **{name: ENDS[name]})
    middle = (vars(START)[name] + ENDS[name]) / 2
    assert vars(settings(config, 500))[name] == pytest.approx(middle)


def test_all_ends_are_tested() -> None:
    assert vars(Schedule()).keys() == {"images", *ENDS} and vars(START).keys() == ENDS.keys()
