"""Paths and URLs of data sets: which are remote, how to join them, and how to hide their credentials."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from shards.common.errors import InputError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # a single letter would be a Windows drive

_USERINFO = re.compile(
    r"""(?<=://)(?:
        [^\s/?#:]*:(?!\d*(?:[/?#\s]|$))\S*@     # up to the last "@": a password may contain "@", "/", "?" and "#"
      | [^\s/?#]*@                              # a user or a token alone
    )""",
    re.VERBOSE,
)
_QUERY = re.compile(r"(://[^\s?]*)\?(\S*)")
_FRAGMENT = re.compile(r"(://[^\s?#]*)#(?=\S*=)\S*")
_HIDDEN = "***"
PORTS = {"http": 80, "https": 443}


def is_remote(where: str) -> bool:
    """Whether ``where`` is a URL outside the local file system."""
    scheme = _SCHEME.match(where)
    return scheme is not None and scheme[1].lower() != "file"


def local_path(where: str) -> Path:
    """The path of ``where``, a path or a ``file://`` URL (RFC 8089); ``InputError`` for any other address."""
    scheme = _SCHEME.match(where)
    if scheme is None:
        return Path(where)
    host, slash, path = where[scheme.end() :].partition("/")
    if scheme[1].lower() != "file" or host.lower() not in {"", "localhost"} or not slash:
        raise InputError(f"{redact(where)} is not a path of this machine; write file:///the/path.")
    return Path(unquote(slash + path))


def join(base: str, name: str) -> str:
    """The URL of the file ``name``, not encoded yet, in the folder ``base``, which may have a query (a SAS token)."""
    folder, mark, query = base.partition("?")
    if folder.lower().startswith(("http://", "https://")):
        folder, name = (
            folder.partition("#")[0],
            quote(name, errors="surrogateescape"),
        )  # other schemes have keys as they are
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def redact(text: str) -> str:
    """Hide user, password and all values of the query in every URL of ``text``; rather too much than too little."""
    text = _USERINFO.sub(f"{_HIDDEN}@", text)
    text = _QUERY.sub(lambda match: f"{match[1]}?{'&'.join(map(_hide, match[2].split('&')))}", text)
    return _FRAGMENT.sub(rf"\1#{_HIDDEN}", text)


def bare(url: str) -> str:
    """``url`` without user, password, query and fragment: safe to store, and still an address."""
    return _USERINFO.sub("", url).partition("?")[0].partition("#")[0]


def path_below(own: str, other: str) -> str | None:
    """The path of the URL ``other`` relative to the folder at the URL ``own``, not encoded.

    Returns None if ``other`` is elsewhere, or if any server or library could read it so.
    """
    if other != bare(other) or re.search(r"[\x00-\x1f\x7f\\]", other):
        return None
    try:
        here, there = urlsplit(bare(own)), urlsplit(other)
        http = here.scheme in PORTS
        origins = [(url.hostname, url.port or PORTS[url.scheme]) if http else url.netloc for url in (here, there)]
    except (ValueError, KeyError):  # a port that is no number, another scheme
        return None
    paths = [[unquote(part) if http else part for part in url.path.split("/") if part] for url in (here, there)]
    rest = paths[1][len(paths[0]) :]
    if here.scheme != there.scheme or origins[0] != origins[1] or paths[1][: len(paths[0])] != paths[0]:
        return None
    return None if any(_leaves_folder(part) for part in rest) else "/".join(rest)


def _leaves_folder(part: str) -> bool:
    while (decoded := unquote(part)) != part:  # some servers decode twice
        part = decoded
    return part in {".", ".."} or "/" in part or "\\" in part


def _hide(field: str) -> str:
    key, _, value = field.partition("=")
    return f"{key}={_HIDDEN}" if value.strip("=") else _HIDDEN  # a bare token may end in "=" (base64)
