"""Reads flags as the agents of W&B sweeps write them, and returns them as the command line defines them.

An agent writes Python's ``str`` of each value (``--data.flip=True``, ``--steps=None``, ``--batch-size=64.0``). Other
macros of a sweep's ``command`` than ``${args}`` write a flag and its value as two words, ``name=value`` without hyphens
or with Hydra's ``+``, a flag alone for true, or one JSON object.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml

from shards.common.errors import InputError
from trainer.config import Config, Switch

WORD = re.compile(r"(--|\+{0,2})([A-Za-z][\w.-]*)(?:=(.*))?", re.DOTALL)
BOOLEANS = {**dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
            **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)}  # fmt: skip


def normalise(words: Sequence[str]) -> list[str]:
    """Returns ``words`` with flags and values in the form that ``--help`` shows. Words of unknown flags are kept.

    Raises ``InputError`` if a boolean or an integer has a value of another type.
    """
    types, left = _types(Config), deque(words)
    groups = {name.partition(".")[0] for name in types if "." in name}
    normal: list[str] = []
    while left:
        word = left.popleft()
        name, value = _split(word)
        field = next((plain for plain in (name, _positive(name)) if plain in types), "")
        hint = types.get(field)
        if (values := _read_mapping(value if name in groups else word)) is not None:
            left.extendleft(reversed(_write(values, f"{name}." if name in groups else "")))
        elif hint in (bool, Switch):
            if value is None and left and not left[0].startswith(("-", "{")) and not _split(left[0])[0]:
                value = left.popleft()
            normal += _write_boolean(field, hint, value, negated=field != name)
        elif name in groups | types.keys() and value is None and left and not left[0].startswith("--"):  # two words
            left[0] = f"{word}={left[0]}"
        elif hint and field == name and value is not None:
            normal.append(f"--{field.replace('_', '-')}={_convert(field, hint, value)}")
        else:
            normal.append(word)
    return normal


def _types(kind: type, prefix: str = "") -> dict[str, Any]:
    """The types of all fields by dotted name."""
    types: dict[str, Any] = {}
    for field, hint in get_type_hints(kind, include_extras=True).items():
        is_group = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        types |= _types(hint, f"{prefix}{field}.") if is_group else {prefix + field: hint}
    return types


def _split(word: str) -> tuple[str, str | None]:
    """The dotted name of a flag, empty for another word, and the value written behind ``=``."""
    match = WORD.fullmatch(word)
    if not match or not (match[1] or match[3]):
        return "", None
    return match[2].replace("-", "_"), match[3]


def _positive(name: str) -> str:
    """``data.flip`` for ``data.no_flip`` and ``no_data.flip``."""
    return re.sub(r"(^|\.)no_", r"\1", name, count=1)


def _read_mapping(text: str | None) -> Mapping[str, Any] | None:
    """The values of a JSON object, or of Python's ``str`` of a dict; YAML's flow style includes both."""
    if not text or not text.lstrip().startswith("{"):
        return None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return values if isinstance(values, dict) else None


def _write(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    words: list[str] = []
    for name, value in values.items():
        words += _write(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"--{prefix}{name}={value}"]
    return words


def _write_boolean(field: str, hint: Any, text: str | None, *, negated: bool) -> list[str]:
    flag = "--" + field.replace("_", "-")
    value = True if text is None else BOOLEANS.get(text.strip().lower())
    if value is None and hint is Switch:
        return [flag, text or ""]  # the usage error lists the choices
    if value is None:
        raise InputError(f"{flag} is {text!r}; it must be true or false.")
    value ^= negated
    if hint is Switch:
        return [flag, str(value).lower()]
    group, dot, name = flag.removeprefix("--").rpartition(".")
    return [flag if value else f"--{group}{dot}no-{name}"]


def _convert(field: str, hint: Any, text: str) -> str:
    types = get_args(hint) or (hint,)
    if NoneType in types and text.strip().lower() in ("none", "null"):
        return "None"
    if int in types and not text.strip().lstrip("+-").isdecimal():
        try:
            number = float(text)
        except ValueError:
            return text
        if not number.is_integer():
            raise InputError(f"--{field.replace('_', '-')} is {text}; it must be a whole number.")
        return str(int(number))
    return text
