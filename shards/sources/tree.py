"""The files of a folder that other people filled: which are images, and what else there is."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shards.common.names import is_junk, printable
from shards.format.image import MAX_BYTES
from shards.sources.source import BadImage

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif",
              ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif")  # fmt: skip

NEVER = (".txt", ".caption", ".json", ".jsonl", ".xml", ".xmp", ".csv", ".tsv", ".yaml", ".yml", ".md", ".html",
         ".npy", ".npz", ".pt", ".mat", ".mp4", ".mov", ".zip", ".tar", ".gz", ".thm", ".part", ".crdownload",
         ".tmp", ".bak")  # fmt: skip
"""Suffixes of files that are not opened: annotations may be as many as images, and the rest may look like an image."""

SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|....ftypavi[fs]|\0\0\0\x0cjP  ", re.DOTALL
)
"""Start of a file that is an image whatever its name. Not TIFF's: most camera raw files begin with it."""

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


def walk(root: str, unreadable: dict[str, str] | None = None) -> Iterator[str]:
    """The path of every file below ``root``, relative to it; no ``stat`` per file.

    Junk is left out. Links to folders are followed, but no folder is visited twice, as a link can point to its parent.
    A sub-folder that cannot be read becomes an entry of ``unreadable``; without this argument it raises ``OSError``.
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
            unreadable[printable(folder)] = error.strerror or str(error)
        folders += sorted(inner, reverse=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that cannot be read
        return False


def suffix(path: str) -> str:
    """``.jpg`` of ``a/x.JPG?w=640``, a name made of a URL."""
    stem, dot, ending = path.rpartition("/")[2].partition("?")[0].rpartition(".")  # Path.suffix takes ten times as long
    return (dot + ending).lower() if stem and ending else ""


def is_image(root: str, path: str) -> bool:
    """Whether the file ``path`` below ``root`` is to be read as an image."""
    ending = suffix(path)
    if ending in EXTENSIONS or ending in NEVER:
        return ending in EXTENSIONS
    try:
        return SIGNATURE.match(read_file(f"{root}/{path}", path, 16)) is not None
    except BadImage:
        return not ending  # a dangling link, perhaps to a folder of images: reading it will name it


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
