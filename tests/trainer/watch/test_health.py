"""Each way of going wrong is noticed, named once, and not seen in a healthy training."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainer.watch.health import EVALUATIONS, ZERO_STEPS, Health


def health() -> Health:
    return Health(("kd-lite0", "swd"))


def test_a_loss_that_stays_zero_is_named_once() -> None:
    subject = health()
    assert not subject.check_losses(0, {"loss/d": 0.3})
    found = [subject.check_losses(step, {"loss/d": 1e-5}) for step in range(25, 3 * ZERO_STEPS, 25)]
    assert [len(problems) for problems in found].count(1) == 1
    assert found[ZERO_STEPS // 25] == [(f"the discriminator's loss has been 0 for {ZERO_STEPS:,} steps", 25)]


def test_a_loss_that_recovers_is_no_problem() -> None:
    subject = health()
    for step in range(0, 10 * ZERO_STEPS, 25):
        assert not subject.check_losses(step, {"loss/d": 0.5 if step % 500 == 0 else 0.0})


def test_images_that_become_alike_are_named() -> None:
    subject = health()
    young, healthy, collapsed = ({"ms-ssim": value, "ms-ssim-real": 0.3} for value in (0.98, 0.35, 0.9))
    assert not subject.check_scores(10, young)  # nothing is diverse yet
    assert not subject.check_scores(20, healthy)
    (problem,) = subject.check_scores(30, collapsed)
    assert problem == ("the generated images have become alike: 14% of the data's diversity, 93% before", 21)
    assert not subject.check_scores(40, collapsed)


def test_a_score_far_above_its_best_is_named() -> None:
    subject = health()
    for step, value in enumerate((50.0, 10.0, 25.0, 15.0, *[25.0] * (EVALUATIONS - 1)), 1):
        assert not subject.check_scores(step, {"kd-lite0": value, "swd": 1e9})  # the preferred score counts
    (problem,) = subject.check_scores(7, {"kd-lite0": 25.0})
    assert problem == ("kd-lite0 has been far worse than its best for 3 evaluations: 25, once 10", 5)


def test_a_score_that_is_not_computed_leaves_the_judgement_to_the_next() -> None:
    subject = Health(("fid", "kd-lite0", "swd"))
    found = [subject.check_scores(step, {"swd": value}) for step, value in enumerate((10.0, *[25.0] * EVALUATIONS))]
    assert [len(problems) for problems in found] == [0] * EVALUATIONS + [1]


def test_values_of_two_scores_are_not_compared() -> None:
    """A resume may compute another score."""
    subject = health()
    for step in range(2 * EVALUATIONS):
        assert not subject.check_scores(step, {"swd": 1.0} if step < EVALUATIONS else {"kd-lite0": 25.0})


def test_a_score_around_zero_is_no_problem() -> None:
    subject = health()
    for value in (30.0, 0.1, -0.1, 0.3, 1.0, 0.5, 2.0):
        assert not subject.check_scores(1, {"kd-lite0": value})


@given(st.lists(st.floats(1, 2), min_size=1, max_size=30))
def test_a_score_that_stays_within_twice_its_best_is_no_problem(values: list[float]) -> None:
    subject = health()
    assert not any(subject.check_scores(step, {"swd": value}) for step, value in enumerate(values))


EVALUATION = st.fixed_dictionaries({"swd": st.floats(-1, 50), "ms-ssim": st.floats(0, 1), "ms-ssim-real": st.just(0.3)})


@given(
    st.dictionaries(st.integers(0, 3000), st.sampled_from([0.0, 0.5]) | st.just(0.0), max_size=12),
    st.dictionaries(st.integers(0, 3000), EVALUATION, max_size=12),
    st.integers(0, 3000),
)
def test_a_resumed_training_is_judged_as_one_that_was_not_interrupted(
    losses: dict[int, float], evaluations: dict[int, dict[str, float]], at: int
) -> None:
    def until(journal: dict[int, Any]) -> dict[int, Any]:
        return {step: row for step, row in journal.items() if step <= at}

    whole, resumed = health(), health()
    expected = whole.replay(losses, evaluations)
    found = resumed.replay(until(losses), until(evaluations))
    later = [{step: row for step, row in journal.items() if step > at} for journal in (losses, evaluations)]
    assert found + resumed.replay(later[0], later[1]) == expected and resumed == whole
