"""Names of files, as the systems of other people make them."""

from __future__ import annotations

import re

JUNK = frozenset({"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information",
                  "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"})  # fmt: skip
"""Names, in lower case, of thumbnails, deleted files and notes that systems leave beside images."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or one of ``JUNK``."""
    return name.startswith(".") or name.lower() in JUNK


def is_below_junk(path: str) -> bool:
    """Whether a part of ``path``, which has forward slashes, is junk."""
    return any(is_junk(part) for part in path.split("/") if part not in (".", ".."))


def printable(name: str) -> str:
    r"""``name`` in one line of valid Unicode: line breaks and other control characters become escapes, and so do bytes
    that are not UTF-8, which Python holds as surrogates: ``caf\xe9`` of a Latin-1 system.
    """
    return _UNPRINTABLE.sub(_escape, name)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return ascii(chr(code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code))[1:-1]
