"""Lists tars in a folder or behind a URL, and opens them to be read from end to end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import BinaryIO

import fsspec  # type: ignore[import-untyped]
from braceexpand import braceexpand

from shards.common.errors import InputError
from shards.common.urls import is_remote, join, local_path, redact

MAX_TARS = 1_000_000
"""Most tars that a pattern may name: with a digit too many, the names would fill the memory."""


@dataclass(frozen=True)
class TarList:
    """The tars called ``names`` below ``base``, a folder or a URL."""

    base: str
    names: tuple[str, ...]

    def path(self, name: str) -> str:
        return join(self.base, name) if is_remote(self.base) else str(Path(self.base) / name)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        path = self.path(name)
        if not is_remote(path):
            with Path(path).open("rb") as file:
                yield file
            return
        try:
            with fsspec.open(path, "rb") as file:  # it reads ahead
                yield file
        except InputError:
            raise
        except Exception as error:  # each file system has its own
            raise InputError(f"{redact(path)} cannot be read: {redact(str(error)) or type(error).__name__}.") from None


def list_tars(where: str) -> TarList:
    """The tars at ``where``: a folder, a tar, or a pattern of tars; or a URL of these.

    Raises:
        InputError: there are none, or a named one is missing.
    """
    if is_remote(where):
        return _list_remote(where)
    path = local_path(where)
    if path.is_dir():
        names = tuple(sorted(tar.relative_to(path).as_posix() for tar in path.rglob("*.tar") if tar.name[0] != "."))
        if not names:
            packed = next((tar.name for kind in ("*.tar.*", "*.tgz") for tar in path.rglob(kind)), None)
            raise InputError(f"{where} holds no .tar files{f', only compressed ones ({packed})' if packed else ''}.")
        return TarList(str(path), names)
    paths = [Path(name) for pattern in _expand(str(path)) for name in sorted(glob(pattern)) or [pattern]]  # noqa: PTH207
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(f"No tars at {where}: there is no {missing[0]}.")
    if len({*paths}) < len(paths):
        raise InputError(f"{where} names a tar twice.")
    base = os.path.commonpath([path.parent for path in paths])
    return TarList(base or ".", tuple(path.relative_to(base).as_posix() for path in paths))


def _expand(pattern: str) -> Iterator[str]:
    for first, last in re.findall(r"\{(\d+)\.\.(\d+)", pattern):
        if abs(int(last) - int(first)) > MAX_TARS:
            raise InputError(f"{redact(pattern)} names more than {MAX_TARS:,} tars.")
    yield from braceexpand(pattern)


def _list_remote(where: str) -> TarList:
    address, mark, query = where.partition("?")
    if address.endswith(".tar"):
        folder, _, pattern = address.rpartition("/")
        return TarList(folder + mark + query, tuple(_expand(pattern)))
    try:
        fs, path = fsspec.core.url_to_fs(where)
        names = tuple(sorted(name.rpartition("/")[2] for name in fs.glob(f"{path.rstrip('/')}/*.tar")))
    except Exception as error:  # each file system has its own
        raise InputError(
            f"{redact(where)} cannot be listed: {redact(str(error))}. Name its tars: .../x-{{000..099}}.tar"
        ) from None
    if not names:
        raise InputError(f"{redact(where)} lists no .tar files. Name them: {redact(address)}/x-{{000..099}}.tar")
    return TarList(where, names)
