"""The HTML of a report. Tags escape every text, as names and messages come from files."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from trainer.config import flatten
from trainer.presets import PRESETS
from trainer.report.curves import COLOURS, describe, number, score_charts, training_charts
from trainer.report.pictures import BUDGET, LARGEST, QUALITY, choose, encode, nearest
from trainer.report.read import Run, Sheet

Row = Sequence[str]


class Html(str):
    """Markup. Every other string is text."""


def tag(name: str, *inner: str, **attributes: str | float) -> Html:
    """An element. Its attributes lose a final underscore; those that are False are absent."""
    words = [
        f'{key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not False
    ]
    return Html(f"<{' '.join([name, *words])}>" + ("" if name == "img" else f"{join(inner)}</{name}>"))


def join(parts: Iterable[str]) -> Html:
    """Markup and text side by side."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def make_page(runs: Sequence[Run], left_out: Sequence[str] = ()) -> str:
    """The page on ``runs``, which names what was ``left_out``; adds to their problems what else cannot be read."""
    data: dict[str, Any] = {"scores": score_charts(runs), "training": training_charts(runs)}
    seen = [sheet.images for run in runs for sheet in run.sheets]
    seen += [line["x"][-1] for charts in data.values() for chart in charts for line in chart["lines"]]
    data["end"] = max([1, *seen])
    style, script, page = ((files("trainer.report") / f"page.{kind}").read_text() for kind in ("css", "js", "html"))
    texts = {
        "title": ", ".join(run.name for run in runs),
        "heading": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "runs": join(tag("li", *_headline(key, run)) for key, run in zip(_keys(runs), runs, strict=True)),
        "samples": _samples(runs),
        "scores": _scores(runs),
        "facts": _table(["", *_keys(runs)], _facts(runs), "facts"),
        "configuration": _configuration(runs),
        "problems": join(tag("li", text) for text in [*left_out, *(text for run in runs for text in run.problems)]),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    }
    return Template(page).substitute(
        {name: join([text]) for name, text in texts.items()},
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        # The browser applies this style, runs this script, and loads nothing.
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
        style=style,
        script=script,
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _keys(runs: Sequence[Run]) -> list[Html]:
    """Names of the runs with their colours."""
    kinds = [f"key c{place % COLOURS}{' dashed' if place >= COLOURS else ''}" for place in range(len(runs))]
    names = [tag("span", run.name) for run in runs]
    return [join([tag("i", class_=kind), name]) for kind, name in zip(kinds, names, strict=True)]


def _headline(key: Html, run: Run) -> list[str]:
    status = run.status
    parts = [f"step {status.step:,}" + (f" of {status.steps:,}" if status.steps is not None else "")]
    if run.metrics:
        parts.append(f"{max(max(curve) for curve in run.metrics.values()):,} images")
    if "epoch" in run.metrics:
        parts.append(f"epoch {[*run.metrics['epoch'].values()][-1]:.2f}")
    if status.eta_seconds is not None:
        parts.append(f"{timedelta(seconds=round(status.eta_seconds))} left")
    if run.best:
        judge, result = run.best
        parts.append(f"best {judge} {number(result.scores[judge])} at step {result.step:,}")
    known = status.state in ("running", "failed", "killed")
    state = tag("b", status.state, class_=f"state {status.state if known else ''}")
    wrong = [tag("span", text, class_="error") for text in (*status.warnings, status.error) if text]
    return [tag("strong", key), state, tag("span", " · ".join(parts), class_="progress"), *wrong]


def _samples(runs: Sequence[Run]) -> Html:
    """The sheets of each run, of which the script shows one, and real images of each data set."""
    figures, reals, notes = [], dict[str, tuple[Sheet, list[str]]](), []
    for key, run in zip(_keys(runs), runs, strict=True):
        best = run.best[1].position if run.best else None
        sheets = _readable(choose(run.sheets, BUDGET // len(runs), best), run)
        figures.append(_figure(key if len(runs) > 1 else "Generated", f"samples of {run.name}", sheets, best))
        if len(sheets) < len(run.sheets):
            notes.append(f"{len(sheets)} of the {len(run.sheets)} sheets of {run.name}")
        for sheet in _readable([run.real] if run.real else [], run):
            reals.setdefault(str(run.state.get("manifest", run.name)), (sheet, []))[1].append(run.name)
    for sheet, names in reals.values():
        title = "Real" if len(reals) == 1 else f"Real images of {', '.join(names)}"
        image = tag("img", src=encode(sheet), alt=sheet.caption)
        figures.append(tag("figure", tag("h3", title), _enlargeable([image], "real images")))
    some = f"Shown are {', '.join(notes)}, evenly spaced. " if notes else ""
    small = f"To keep this page small, sheets are JPEG of quality {QUALITY}, and at most {LARGEST:,} pixels wide. "
    note = tag("p", some, small, "The run folders hold the originals.", class_="note")
    return join([tag("div", *figures, class_="figures"), note])


def _readable(sheets: Sequence[Sheet], run: Run) -> list[Sheet]:
    """Those of ``sheets`` that are whole; the others become problems of ``run``."""
    run.problems.extend(f"{sheet.path} is damaged and is left out." for sheet in sheets if not encode(sheet))
    return [sheet for sheet in sheets if encode(sheet)]


def _figure(title: str, what: str, sheets: Sequence[Sheet], best: int | None) -> Html:
    near = None if best is None else nearest(sheets, best)
    images = []
    for sheet in sheets:
        text = f"{sheet.caption} {sheet.images:,} real images seen."
        text += " This is the best checkpoint." if sheet.images == best else ""
        hide, mark = sheet is not sheets[-1] and "hidden", sheet is near and "best"
        images.append(tag("img", src=encode(sheet), alt=text, hidden=hide, data_x=sheet.images, data_best=mark))
    body = _enlargeable(images, what) if images else tag("p", "No sheets yet.", class_="empty")
    return tag("figure", tag("h3", title), body, tag("figcaption"))


def _enlargeable(images: Row, what: str) -> Html:
    label = f"Enlarge {what}"
    return tag("div", *images, class_="sheets", tabindex=0, role="button", aria_pressed="false", aria_label=label)


def _scores(runs: Sequence[Run]) -> Html:
    """A table of the final and the best value of each score, and how they were measured."""
    names = dict.fromkeys(name for run in runs for name in run.scores)
    if not names:
        return tag("p", "No scores yet. python -m trainer.evaluate computes them.", class_="empty")
    rows = []
    for name in names:
        text, sign = describe(name)
        cells, ranks = [], []
        for run in runs:
            steps = {result.position: result.step for result in run.results}
            curve = run.scores.get(name, {})
            finite = {images: sign * value for images, value in curve.items() if math.isfinite(value)}
            cells += [number([*curve.values()][-1]) if curve else "–", "–"]
            if sign and finite:
                best = max(finite, key=lambda images: finite[images])
                cells[-1] = join([tag("span", number(curve[best])), tag("small", f"step {steps[best]:,}")])
                ranks.append((finite[best], len(cells) - 1))
        for rank, place in ranks:
            if len(runs) > 1 and rank == max(ranks)[0]:
                cells[place] = tag("b", cells[place])
        arrow = {-1: " ↓", 1: " ↑", 0: ""}[sign]
        rows.append([join([tag("b", name + arrow), tag("small", text if len(runs) == 1 else "")]), *cells])
    pairs = [(key, kind) for key in _keys(runs) for kind in ("final", "best")]
    heads = [join([key if len(runs) > 1 else "", tag("small", kind)]) for key, kind in pairs]
    settings = ("features", "samples", "reals", "weights", "batch_norm", "resize", "data")
    results = [(run.name, result) for run in runs for result in run.results]
    how = dict.fromkeys((name, *(str(getattr(result, key)) for key in settings)) for name, result in results)
    measured = tag("summary", "How the scores were measured")
    details = tag("details", measured, _table(["run", *map(_words, settings)], how, "conditions"))
    return join([_table(["", *heads], rows, "scores"), details])


def _facts(runs: Sequence[Run]) -> list[Row]:
    """Rows of what the folders say besides curves. A row exists if a run has it. Starts in other environments, such as
    after a requeue on another node, are listed in order.
    """
    facts = []
    for run in runs:
        shown_elsewhere = ("step", "position", "scaler", "best", "scores")
        state = {name: value for name, value in run.state.items() if name not in shown_elsewhere}
        data = {"data": state.pop("data", ""), "digest of the data": str(state.pop("manifest", ""))[:16]}
        last = {"newest checkpoint": run.status.checkpoint, "starts": len(run.starts) or None}
        returns = {"rollbacks": [f"to step {row['step']:,}" for row in run.rollbacks]} if run.rollbacks else {}
        fact = {"folder": run.status.run, **data, **state, **_environment(run.starts), **last, **returns}
        facts.append({_words(name): _text(value) for name, value in fact.items() if value is not None and _text(value)})
    names = dict.fromkeys(name for fact in facts for name in fact)
    return [[name, *(fact.get(name, "–") for fact in facts)] for name in names]


def _environment(starts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each start was made with; where they differ, the values in order."""
    names = dict.fromkeys(name for start in starts for name in start if name not in ("step", "position", "data.digest"))
    values = {name: [_text(start[name]) for start in starts if start.get(name) is not None] for name in names}
    return {name: ", then ".join(dict.fromkeys(texts)) for name, texts in values.items()}


def _configuration(runs: Sequence[Run]) -> Html:
    """All settings of each run, first those that differ from its preset or between the runs."""
    presets = [_nearest_preset(run.config) for run in runs]
    equal: list[Row] = []
    differing: list[Row] = []
    for name in dict.fromkeys(name for run in runs for name in run.config):
        values = [_text(run.config.get(name, "–")) for run in runs]
        usual = [_text(preset[name]) for _, preset in presets]
        cells = [
            value if value == other else join([tag("b", value), tag("small", f"preset: {other}")])
            for value, other in zip(values, usual, strict=True)
        ]
        differs = name != "out" and (values != usual or len({*values}) > 1)
        (differing if differs else equal).append([name, *(cells if differs else values)])
    summary = f"{len(differing)} of {len(equal) + len(differing)} settings differ from the preset or between runs"
    rows = [["nearest preset", *(name for name, _ in presets)], *differing, *equal]
    return tag("details", tag("summary", summary), _table(["", *_keys(runs)], rows, "settings"))


def _nearest_preset(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the settings of the preset from which ``config`` differs least; the run folder names none."""
    flat = {name: flatten(preset) for name, (_, preset) in PRESETS.items()}
    return min(flat.items(), key=lambda item: sum(config.get(name) != value for name, value in item[1].items()))


def _table(head: Row, rows: Iterable[Row], kind: str) -> Html:
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = [tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in cells)) for first, *cells in rows]
    table = tag("table", top, tag("tbody", *body), class_=kind)
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=f"Table of {kind}")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: object) -> str:
    """A setting as text."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(str(name))} {_text(part)}" for name, part in value.items())
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
