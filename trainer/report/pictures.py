"""Sheets of samples as data URLs. A long run has more of them than one page can hold."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from functools import cache

from PIL import Image

from trainer.report.read import UNREADABLE, Sheet

BUDGET = 12_000_000  # characters of all sheets on a page
LARGEST = 1200  # pixels, width and height to which larger sheets are reduced
QUALITY = 85  # of JPEG


def choose(sheets: Sequence[Sheet], budget: int, keep: int | None) -> list[Sheet]:
    """The most of ``sheets``, evenly spread, whose pictures have at most ``budget`` characters.

    The first, the last and the one nearest to ``keep`` images seen are always among them.
    """

    def spread(count: int) -> list[Sheet]:
        chosen = {sheets[round(number * (len(sheets) - 1) / (count - 1))] for number in range(count)}
        return [sheet for sheet in sheets if sheet in chosen or sheet is near]

    def cost(chosen: Sequence[Sheet]) -> int:
        return sum(len(encode(sheet)) for sheet in chosen)

    near = None if keep is None else nearest(sheets, keep)
    if len(sheets) < 3:
        return [*sheets]
    # Not all are encoded. The first sheets of a run compress in another way than the last ones.
    count = min(len(sheets), max(2, 3 * budget // (cost(spread(3)) + 1)))
    while (total := cost(spread(count))) > budget and count > 2:
        count = max(2, min(count - 1, count * budget // total))
    return spread(count)


def nearest(sheets: Sequence[Sheet], images: int) -> Sheet | None:
    """The sheet that was drawn nearest to ``images`` seen."""
    return min(sheets, key=lambda sheet: abs(sheet.images - images), default=None)


@cache
def encode(sheet: Sheet) -> str:
    """The picture as a data URL: its file, or a JPEG if that is smaller; empty if the file is damaged."""
    try:
        content, kind = sheet.path.read_bytes(), "png"
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            picture = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except UNREADABLE:
        return ""
    reduced = max(picture.size) > LARGEST
    picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "jpeg", quality=QUALITY, optimize=True)
    if reduced or buffer.tell() < len(content):
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
