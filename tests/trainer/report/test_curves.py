from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.report.curves import POINTS, _thin, describe, number

VALUES = st.lists(st.floats(width=32) | st.just(0.0), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(values=VALUES, repeat=st.integers(1, 1500))
def test_thinned_curves_keep_end_and_extremes(values: list[float], repeat: int) -> None:
    curve = {10 * place: value for place, value in enumerate(values * repeat, start=1)}
    points: dict[str, Any] = _thin(curve)
    assert len(points["x"]) == len(points["y"]) <= POINTS and points["x"][-1] == 10 * len(curve)
    finite = [value for value in curve.values() if math.isfinite(value)]
    low = [value for value in points.get("low", points["y"]) if value is not None]
    high = [value for value in points.get("high", points["y"]) if value is not None]
    assert bool(low) == bool(finite)
    if finite:
        assert math.isclose(min(low), min(finite), rel_tol=1e-4) and math.isclose(max(high), max(finite), rel_tol=1e-4)


def test_a_spike_among_many_values_is_kept() -> None:
    curve = dict.fromkeys(range(100_000), 1.0) | {12_345: 9.0}
    points: dict[str, Any] = _thin(curve)
    assert (
        len(points["x"]) <= POINTS and max(points["high"]) == 9.0 and sum(high == 9.0 for high in points["high"]) == 1
    )


def test_directions_of_scores() -> None:
    up = {"precision-lite0": 1, "recall-lite0": 1, "density-lite0": 1, "coverage-lite0": 1, "class-coverage-labels": 1}
    down = {"fid": -1, "fd-lite0": -1, "kd-inception": -1, "swd": -1, "swd-64": -1}
    up |= {"agreement": 1, "agreement-3": 1}
    signs = {**up, **down, "ms-ssim": 0, "ms-ssim-real": 0, "new": 0}
    assert {name: describe(name)[1] for name in signs} == signs


def test_numbers_have_four_digits() -> None:
    assert [number(value) for value in (0, 0.123456, 33.54063, 2998.15, 1e12, -4e-7, math.nan)] == [
        "0", "0.1235", "33.54", "2,998", "1e+12", "-4e-07", "nan"]  # fmt: skip
