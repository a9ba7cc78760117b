"""Names and folders of files, as the systems of other people make them."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

JUNK = frozenset({"__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information",
                  "#snapshot", "~snapshot", "lost+found", "lost.dir", "found.000", "network trash folder",
                  "temporary items", "@__thumb", "thumbs.db", "ehthumbs.db", "desktop.ini"})  # fmt: skip
"""Names, in lower case, of thumbnails, deleted files and notes that systems leave beside images."""

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif",
              ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif")  # fmt: skip
"""Of images that are read."""

LISTED = 20
"""Names that a message lists."""

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or one of ``JUNK``."""
    return name.startswith(".") or name.lower() in JUNK


def is_below_junk(path: str) -> bool:
    """Whether a part of ``path``, which has forward slashes, is junk."""
    return any(is_junk(part) for part in path.split("/") if part not in (".", ".."))


def suffix(path: str) -> str:
    """``.jpg`` of ``a/x.JPG?w=640``, a name made of a URL."""
    stem, dot, ending = path.rpartition("/")[2].partition("?")[0].rpartition(".")  # Path.suffix takes ten times as long
    return (dot + ending).lower() if stem and ending else ""


def printable(name: str) -> str:
    r"""``name`` in one line of valid Unicode: line breaks and other control characters become escapes, and so do bytes
    that are not UTF-8, which Python holds as surrogates: ``caf\xe9`` of a Latin-1 system.
    """
    return _UNPRINTABLE.sub(_escape, name)


def list_names(names: Sequence[str]) -> str:
    """The first of ``names``, for a message, and how many more there are."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(map(printable, names[:LISTED])) + more


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return ascii(chr(code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code))[1:-1]


def walk(root: str, unreadable: dict[str, str] | None = None) -> Iterator[str]:
    """The path of every file below ``root``, relative to it; no ``stat`` per file.

    Junk is left out. Links to folders are followed, but no folder is visited twice, as a link can point to its parent.
    A sub-folder, or a link to one, that cannot be read becomes an entry of ``unreadable``; without this argument it
    raises ``OSError``.
    """
    seen, folders = set(), [("", os.path.realpath(root))]
    while folders:
        folder, real = folders.pop()
        if real in seen:
            continue
        seen.add(real)
        inner = []
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    path = folder + entry.name
                    if is_junk(entry.name):
                        continue
                    if not _is_folder(entry):
                        yield path
                    elif entry.is_symlink():
                        inner.append((f"{path}/", os.path.realpath(entry.path)))
                    else:
                        inner.append((f"{path}/", f"{real}/{entry.name}"))
        except OSError as error:
            if unreadable is None or not folder:
                raise
            dangling = error.errno in (errno.ENOENT, errno.ELOOP)
            unreadable[printable(folder.rstrip("/") if dangling else folder)] = error.strerror or str(error)
        folders += sorted(inner, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also for a link without its target that may have been a folder: its name has no suffix."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not suffix(entry.name) and not Path(entry.path).exists())
    except OSError:  # a link to itself, or into a folder that cannot be read
        return not suffix(entry.name)
