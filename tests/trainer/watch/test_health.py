"""Each way of going wrong is noticed, named once, and not seen in a healthy training."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.watch.health import EVALUATIONS, ZERO_STEPS, Health


def health() -> Health:
    return Health(("kd-lite0", "swd"))


def test_a_loss_that_stays_zero_is_named_once() -> None:
    subject = health()
    found = [subject.check_losses(step, {"loss/d": 1e-5}) for step in range(0, 3 * ZERO_STEPS, 25)]
    assert [len(problems) for problems in found].count(1) == 1
    assert found[ZERO_STEPS // 25] == [f"the discriminator's loss has been 0 for {ZERO_STEPS:,} steps"]


def test_a_loss_that_recovers_is_no_problem() -> None:
    subject = health()
    for step in range(0, 10 * ZERO_STEPS, 25):
        assert not subject.check_losses(step, {"loss/d": 0.5 if step % 500 == 0 else 0.0})


def test_images_that_become_alike_are_named() -> None:
    subject = health()
    young, healthy, collapsed = ({"ms-ssim": value, "ms-ssim-real": 0.3} for value in (0.98, 0.35, 0.9))
    assert not subject.check_scores(young)  # nothing is diverse yet
    assert not subject.check_scores(healthy)
    (problem,) = subject.check_scores(collapsed)
    assert problem == "the generated images have become alike: 14% of the data's diversity, 93% before"
    assert not subject.check_scores(collapsed)


def test_a_score_far_above_its_best_is_named() -> None:
    subject = health()
    for value in (50.0, 10.0, 25.0, 15.0, *[25.0] * (EVALUATIONS - 1)):
        assert not subject.check_scores({"kd-lite0": value, "swd": 1e9})  # the preferred score counts
    (problem,) = subject.check_scores({"kd-lite0": 25.0})
    assert problem == "kd-lite0 has been far worse than its best for 3 evaluations: 25, once 10"


def test_a_score_around_zero_is_no_problem() -> None:
    subject = health()
    for value in (30.0, 0.1, -0.1, 0.3, 1.0, 0.5, 2.0):
        assert not subject.check_scores({"kd-lite0": value})


@given(st.lists(st.floats(1, 2), min_size=1, max_size=30))
def test_a_score_that_stays_within_twice_its_best_is_no_problem(values: list[float]) -> None:
    subject = health()
    assert not any(subject.check_scores({"swd": value}) for value in values)
