"""Which charts a report has, and the points of their curves, JSON-ready. ``page.js`` draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.folder.score_log import Curve
from trainer.report.read import Run

Groups = dict[str, dict[str, str]]
"""Titles of charts, and of each the names of its curves and what these are called there."""

TRAINING: Groups = {
    "Losses": {"loss/d": "D", "loss/g": "G"},
    "Scores of D": {"score/real": "D(x)", "score/fake_before": "D(G(z))", "score/fake_after": "D(G(z)) after D’s step"},
    "Gradient penalties": {"penalty/r1": "R1", "penalty/r2": "R2"},
    "Gradient norms": {"gradient/d": "D", "gradient/g": "G"},
    "Images per second": {"speed/images_per_second": ""},
    "Share of time waiting for data": {"data/wait": ""},
    "Share of time held up by checkpoints": {"speed/checkpoints": ""},
    "Share of time held up by evaluations": {"speed/evaluation": ""},
    "Memory in GiB": {"memory/host_gb": "host", "memory/device_gb": "device"},
    "Scale of fp16": {"amp/scale": ""},
    "Steps left out in fp16": {"amp/skipped_d": "D", "amp/skipped_g": "G"},
    "Bad samples replaced": {"data/replaced": ""},
}
"""Charts of metrics. Other metrics have a chart each."""
NO_CURVES = ("epoch", "evaluation/")
"""Prefixes of metrics without a chart here; the charts of scores have evaluations."""
STEEP = ("loss/", "penalty/", "gradient/", "amp/scale", "fid", "fd-", "kid", "kd-", "swd")
"""Prefixes of curves that get a logarithmic scale if they are positive and their values differ by a factor of 100."""
SCORES = {
    "fid": ("Fréchet Inception distance", -1),
    "fd-": ("Fréchet distance of features", -1),
    "kid": ("kernel Inception distance", -1),
    "kd-": ("kernel distance of features", -1),
    "precision": ("share of samples that look real", 1),
    "recall": ("share of the data within reach of samples", 1),
    "density": ("real images around a sample", 1),
    "coverage": ("share of the data with a sample nearby", 1),
    "class-coverage": ("sum of the smaller shares of each class", 1),
    "agreement": ("share of images that look like the class asked for", 1),
    "swd-": ("sliced Wasserstein distance of patches", -1),
    "swd": ("its mean over sizes", -1),
    "ms-ssim-real": ("the same of real images, which is the goal", 0),
    "ms-ssim": ("similarity of samples to each other", 0),
}
"""By prefix of its name: what a score is, and the sign of its good direction, which is 0 if it has none."""
FAMILIES = {
    ("precision", "recall", "density", "coverage"): "Precision, recall, density, coverage",
    ("swd",): "Sliced Wasserstein distance",
    ("ms-ssim",): "Similarity of images to each other",
    ("class-coverage",): "Shares of the classes in common",
    ("class-",): "Share of each class",
    ("agreement-",): "Agreement with the class asked for, of each class",
}
"""Prefixes of scores that share a chart, and its title."""
POINTS = 800  # of a curve; more are combined, as no chart is wider
COLOURS = 8


def describe(score: str) -> tuple[str, int]:
    """What ``score`` is, and the sign of its good direction."""
    return next((SCORES[prefix] for prefix in SCORES if score.startswith(prefix)), ("", 0))


def number(value: float) -> str:
    """Four digits, and thousands with separators."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"


def training_charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Charts of the metrics. Curves of one run share charts; several runs share a chart for each metric."""
    curves = [run.metrics for run in runs]
    known = {name for names in TRAINING.values() for name in names}
    others = sorted({name for found in curves for name in found if not name.startswith(NO_CURVES)} - known)
    groups = {**TRAINING, **{name: {name: ""} for name in others}}
    if len(runs) > 1:
        groups = {
            f"{title}: {label}" if label else title: {name: ""}
            for title, names in groups.items()
            for name, label in names.items()
        }
    return _charts(runs, curves, groups)


def score_charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Charts of the scores, shared in the same way."""
    groups: Groups = {}
    for name in dict.fromkeys(name for run in runs for name in run.scores):
        family = next((title for prefixes, title in FAMILIES.items() if name.startswith(prefixes)), name)
        groups.setdefault(family if len(runs) == 1 else name, {})[name] = name if family != name else ""
    return _charts(runs, [run.scores for run in runs], groups)


def _charts(runs: Sequence[Run], curves: Sequence[Mapping[str, Curve]], groups: Groups) -> list[dict[str, Any]]:
    charts = []
    for title, names in groups.items():
        lines = []
        for place, (run, found) in enumerate(zip(runs, curves, strict=True)):
            for member, (name, label) in enumerate(names.items()):
                if name in found:
                    text, colour = (label, member) if len(runs) == 1 else (run.name, place)
                    best = run.best[1].position if run.best and name in run.scores else None
                    last = number([*found[name].values()][-1])
                    lines.append({"label": text, "colour": colour, "best": best, "last": last, **_thin(found[name])})
        if lines:
            steep = all(name.startswith(STEEP) for name in names)
            charts.append({"title": title, "text": describe(title)[0], "steep": steep, "lines": lines})
    return charts


def _thin(curve: Curve) -> dict[str, list[int] | list[float | None]]:
    """At most ``POINTS`` points. Combined ones are a mean; their extremes are kept, so that no spike disappears."""
    images, size = [*curve], math.ceil(len(curve) / POINTS)
    groups = [images[start : start + size] for start in range(0, len(images), size)]
    values = [[curve[place] for place in group if math.isfinite(curve[place])] or [math.nan] for group in groups]
    means = [_round(sum(group) / len(group)) for group in values]
    points: dict[str, list[int] | list[float | None]] = {"x": [group[-1] for group in groups], "y": means}
    if size > 1:
        points["low"], points["high"] = ([_round(extreme(group)) for group in values] for extreme in (min, max))
    return points


def _round(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
