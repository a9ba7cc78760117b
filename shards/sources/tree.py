"""The files of a folder that other people filled: which are images, and what else there is."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shards.common.names import EXTENSIONS, printable, suffix, walk
from shards.format.image import MAX_BYTES
from shards.sources.source import BadImage

NEVER = (".txt", ".caption", ".json", ".jsonl", ".xml", ".xmp", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html",
         ".npy", ".npz", ".pt", ".mat", ".mp4", ".mov", ".zip", ".tar", ".gz", ".thm", ".part", ".crdownload",
         ".tmp", ".bak")  # fmt: skip
"""Suffixes of files that are not opened: annotations may be as many as images, and the rest may look like an image."""

SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|....ftypavi[fs]|\0\0\0\x0cjP  ", re.DOTALL
)
"""Start of a file that is an image whatever its suffix."""

TIFF = re.compile(rb"II\*\0|MM\0\*")
"""Start of a file that is an image if it has no suffix: most camera raw files begin like a TIFF, too."""

REFUSED = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG)
"""Errors of one file; all others are errors of the disk."""


@dataclass(frozen=True)
class Images:
    """The images below a folder."""

    paths: tuple[str, ...]  # relative to the folder, with forward slashes, sorted
    passed_over: Mapping[str, int]  # how many files are no images, by suffix
    unreadable: Mapping[str, str] = field(default_factory=dict)  # sub-folders that cannot be read, and why


def find_images(root: str) -> Images:
    """The images below ``root``, by suffix, or by content if the suffix tells nothing. Raises ``OSError``."""
    paths, passed_over, unreadable = list[str](), Counter[str](), dict[str, str]()
    for path in walk(root, unreadable):
        if is_image(root, path):
            paths.append(path)
        else:
            passed_over[printable(suffix(path)) or "without suffix"] += 1
    return Images(tuple(sorted(paths)), dict(passed_over.most_common(20)), unreadable)


def is_image(root: str, path: str) -> bool:
    """Whether the file ``path`` below ``root`` is to be read as an image."""
    ending = suffix(path)
    if ending in EXTENSIONS or ending in NEVER:
        return ending in EXTENSIONS
    try:
        start = read_file(f"{root}/{path}", path, 16)
    except BadImage:
        return not ending  # reading it will name it
    return any(form.match(start) for form in ((SIGNATURE,) if ending else (SIGNATURE, TIFF)))


def read_file(path: str, origin: str, size: int = -1) -> bytes:
    """The bytes of a file, or the first ``size`` of them; none of a pipe or a device.

    Raises ``BadImage`` if it is a dangling link, may not be read or is too large, and ``OSError`` if the disk fails.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:
            status = os.fstat(file.fileno())
            if size < 0 and status.st_size > MAX_BYTES:
                raise BadImage(printable(origin), f"has {status.st_size:,} bytes, more than {MAX_BYTES:,}")
            return file.read(size) if stat.S_ISREG(status.st_mode) else b""
    except OSError as error:
        if error.errno in REFUSED or (error.errno == errno.ENOENT and Path(path).is_symlink()):
            raise BadImage(printable(origin), f"cannot be read ({error.strerror})") from error
        error.filename = path  # an error of reading has none
        raise


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # without it, opening a pipe blocks
