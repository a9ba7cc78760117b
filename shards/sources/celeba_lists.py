"""CelebA's lists of attributes and of the split: the original text files, or the tables of other packages."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.common.errors import InputError
from shards.common.names import EXTENSIONS, is_below_junk, printable, suffix
from shards.sources.source import BadImage
from shards.sources.tree import read_file

ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"
TABLES = (".txt", ".csv", ".tsv")
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)  # the last two: a password
SPLITS = {"0": "train", "1": "valid", "2": "test"}
VALUES = {"1": 1, "-1": 0, "0": 0, "1.0": 1, "-1.0": 0, "0.0": 0, "True": 1, "False": 0}
SPACES = str.maketrans('",;\t', "    ")


@dataclass(frozen=True)
class Lists:
    """The attributes and the split of each image, by its name without the suffix, which differs between packages."""

    columns: Sequence[str]
    rows: Mapping[str, str]
    """The values of each image as text, parsed on demand: 200,000 dicts would cost a second and 1 GB."""
    splits: Mapping[str, str]
    unread: Mapping[str, int]
    """Files that are named like a list but are none, such as a list in a zip."""

    def split(self, name: str) -> str:
        """The split of an image; raises ``InputError`` if there is no list."""
        if not self.splits:
            raise InputError(f"There is no {PARTITION}.txt or .csv, which --split needs, beside the images.")
        return SPLITS[self.splits[_stem(name)].strip()]

    def attributes(self, name: str) -> dict[str, str | int]:
        """The split and the attributes, 0 or 1, of an image, as far as there are lists."""
        split: dict[str, str | int] = {"split": self.split(name)} if self.splits else {}
        values = self.rows[_stem(name)].split() if self.rows else []
        return split | {column: VALUES[value] for column, value in zip(self.columns, values, strict=True)}


def find_lists(folders: Sequence[Path], archive: zipfile.ZipFile | None, names: Collection[str]) -> Lists:
    """Read the lists for the images ``names`` in ``folders`` and their ``Anno/`` and ``Eval/``, any folder in the first
    one, or ``archive``.

    Raises ``InputError`` if a list has no line for an image, or a line of another form.
    """
    unread: dict[str, int] = {}
    tables: list[tuple[list[str], dict[str, str]]] = []
    members = [name for name in (archive.namelist() if archive else ()) if not is_below_junk(name)]
    for kind, allowed in ((ATTRIBUTES, VALUES), (PARTITION, SPLITS)):
        places = [(folder, place) for folder in folders for place in ("", "Anno/", "Eval/")] + [(folders[0], "*/")]
        paths = [path for folder, place in places for path in sorted(folder.glob(f"{place}[Ll][Ii][Ss][Tt]_*"))]
        files = (str(path) for path in paths if not path.is_dir())
        found = [name for name in (*files, *members) if _base(name).lower().startswith(kind)]
        readable = [name for name in found if suffix(name) in TABLES]
        if readable:
            path = min(readable, key=lambda name: (len(_base(name)), TABLES.index(suffix(name))))
            data = _read(path, archive if path in members else None)
            tables.append(_parse(path, data, names, allowed))
        else:
            tables.append(([], {}))
            unread |= {printable(_base(name)): 1 for name in found if not name.endswith("/")}
    (columns, rows), (_, splits) = tables
    return Lists(columns, rows, splits, unread)


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _read(path: str, archive: zipfile.ZipFile | None) -> str:
    try:
        data = archive.read(path) if archive else read_file(path, path)
    except (BadImage, *BROKEN_ZIP) as error:
        what = error if isinstance(error, BadImage) else f"{path} cannot be read ({error})"
        raise InputError(f"{what}. Remove it to build without it.") from error
    return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", errors="replace")


def _parse(
    path: str, text: str, names: Collection[str], allowed: Mapping[str, object]
) -> tuple[list[str], dict[str, str]]:
    """The names of the columns, and the values of each image: lines of a name and values, under a line of columns.

    Values are separated by spaces, tabs or commas. The original text files begin with the number of images.
    """
    stems = set(map(_stem, names))
    header, rows = list[str](), dict[str, str]()
    for line in text.splitlines():
        name, _, values = line.translate(SPACES).strip().partition(" ")
        second, _, rest = values.lstrip().partition(" ")
        if suffix(second) in EXTENSIONS:  # the first column is a number of pandas
            name, values = second, rest
        if values and (stem := _stem(name)) in stems:
            rows[stem] = values
        elif name and not rows and not header and suffix(name) not in EXTENSIONS and not line.strip().isdigit():
            header = [name, *values.split()]
    again = "Download it again, or remove it to build without it."
    if missing := next((name for name in names if _stem(name) not in rows), None):
        raise InputError(f"{path} has no line for {printable(missing)}. {again}")
    width = len(rows[_stem(next(iter(names)))].split())
    columns = header[1:] if len(header) == width + 1 else header  # a table also names the column of the images
    for stem in stems:
        found = rows[stem].split()
        if len(found) != (len(columns) or 1) or not allowed.keys() >= {*found}:
            raise InputError(f"{path} has a line for {printable(stem)} that does not fit its columns. {again}")
    return columns, rows
