"""Draws the scores of a run as curves: ``evaluation.png`` in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.common.errors import require
from shards.common.files import atomic_write
from trainer.config import Judge
from trainer.folder.score_log import Curve, Result, curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = ("precision", "recall", "density", "coverage")
COLUMNS = 2
PANEL = (5.2, 2.9)  # inches
DPI = 110
GREY = "0.45"


def draw_scores(results: Sequence[Result], best: tuple[Judge, Result] | None, path: Path) -> None:
    """Writes a panel for each family of scores, over the images seen, to the PNG ``path``. Rings mark the ``best``
    checkpoint, and the score that says so stands above.

    Takes 0.3 s, and the first call another second, which imports matplotlib. Only one thread may draw at a time.

    Raises:
        InputError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    require("scores", "matplotlib")
    # Without pyplot, whose windows and global state are of no use here.
    from matplotlib.figure import Figure

    found = curves(results)
    panels: dict[str, list[str]] = {}
    for name in found:
        if title := family(name):
            panels.setdefault(title, []).append(name)
    rows = -(-len(panels) // COLUMNS)
    figure = Figure((PANEL[0] * COLUMNS, PANEL[1] * rows + 0.35), DPI, layout="constrained")
    for place, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        marked = best[1].position if best else None
        _draw_panel(axes, {name: found[name] for name in names}, marked)
        axes.set_title(title, fontsize=10, loc="left", pad=20 if len(names) > 1 else None)  # room for the legend
    if best:
        judge, result = best
        text = f"{result.checkpoint}, {judge} {result.scores[judge]:.4g}"
        figure.suptitle(f"Rings: the best checkpoint, {text}", fontsize=9, color=GREY, x=0.01, ha="left")
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def family(score: str) -> str | None:
    """Title of the panel of ``score``, with its good direction; None if it is not drawn."""
    kind, _, features = score.partition("-")
    if kind in ("fid", "fd"):
        return f"Fréchet distance {score} ↓"
    if kind in ("kid", "kd"):
        return f"Kernel distance {score} ↓"
    if kind in SHARES:
        return f"{', '.join(SHARES).capitalize()} in {features} ↑"
    if kind == "swd":
        return "Sliced Wasserstein distance ↓"
    if kind == "ms":
        return "Similarity of images to each other (MS-SSIM)"
    if score == "agreement":
        return "Share of images that look like the class asked for ↑"
    return "Shares of the classes in common ↑" if score == "class-coverage" else None  # not of each class


def _draw_panel(axes: Axes, found: dict[str, Curve], best_position: int | None) -> None:
    for name, curve in found.items():
        if name == "ms-ssim-real":  # the same for all checkpoints
            axes.axhline([*curve.values()][-1], label=name, linewidth=1.4, linestyle="--", color=GREY)
            continue
        (line,) = axes.plot([*curve], [*curve.values()], label=name, linewidth=1.4, marker="o", markersize=3)
        if best_position in curve:
            axes.plot(best_position, curve[best_position], "o", markersize=9, fillstyle="none", color=line.get_color())
    if best_position is not None:
        axes.axvline(best_position, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("images seen", fontsize=8, color=GREY)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params("x", nbins=5, integer=True)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(found) > 1:
        axes.legend(
            fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(found), borderaxespad=0,
            columnspacing=1.0, handlelength=1.2, handletextpad=0.4,
        )  # fmt: skip  # above the curves, between them and the title
