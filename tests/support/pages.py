"""The commands that README.md and docs/ show, line by line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.launching import ROOT

PAGES = ("README.md", "docs/data.md", "docs/watch.md", "docs/quality.md", "docs/paper.md", "docs/claims.md",
         "docs/kinds.md", "docs/reproduce.md", "docs/cluster.md", "docs/performance.md", "docs/design.md",
         "docs/log.md")  # fmt: skip
"""In the order in which a person would read them."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """One command of one line, or a block of Python as ``python -c``."""

    place: str
    """File and line."""
    env: dict[str, str]
    words: list[str]
    """Without ``uv run`` and its flags, and without ``...``."""

    def __str__(self) -> str:
        return shlex.join(self.words)


def commands(page: str) -> Iterator[Command]:
    text = (ROOT / page).read_text()
    for fence in FENCE.finditer(text):
        assert fence[1] in ("", "text", "python"), f"{page}: a fence of {fence[1]}"
        line = text[: fence.start(2)].count("\n") + 1
        if fence[1] == "python":
            yield Command(f"{page}:{line}", {}, ["python", "-c", fence[2]])
        for joined in re.split(r"(?<!\\)\n", fence[2]) if not fence[1] else ():
            for part in joined.replace("\\\n", " ").split(" && "):
                if words := shlex.split(part, comments=True):
                    yield read(f"{page}:{line}", words)
            line += joined.count("\n") + 1


def read(place: str, words: list[str]) -> Command:
    first = next(number for number, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    env, rest = dict(word.split("=", 1) for word in words[:first]), words[first:]
    if rest[:2] == ["uv", "run"]:
        start = next(n for n in range(2, len(rest)) if rest[n][0] != "-" and rest[n - 1] not in ("--extra", "--group"))
        rest = rest[start:]
    return Command(place, env, [word for word in rest if word != "..."])
