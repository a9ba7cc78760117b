"""Paths and URLs of data sets: which are remote, how to join them, and how to hide their credentials."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

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


def refuse_url(out: Path) -> None:
    """Raise ``InputError`` if ``out``, which is to be written to, was a URL: it would become a folder ``s3:``."""
    scheme, mark, rest = str(out).partition(":/")  # a path has lost the second slash
    if mark and _SCHEME.fullmatch(f"{scheme}://"):
        where = redact(f"{scheme}://{rest}")
        raise InputError(f"{where} is a URL, and only folders can be written to. Name a folder, and copy it there.")


def join(base: str, name: str) -> str:
    """The URL of the file ``name``, not encoded yet, in the folder ``base``, which may have a query (a SAS token)."""
    folder, mark, query = base.partition("?")
    if folder.lower().startswith(("http://", "https://")):
        folder = folder.partition("#")[0]
        name = quote(name, errors="surrogateescape")  # other schemes have keys as they are
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

    Returns None if ``other`` does not begin with the letters of ``own``, or if the rest is more than names: a server or
    a library might leave the folder.
    """
    folder = f"{bare(own).rstrip('/')}/"
    address = f"{other.rstrip('/')}/"
    path = address[len(folder) :].rstrip("/")
    path = unquote(path) if folder.lower().startswith(("http://", "https://")) else path
    strange = re.search(r"[\x00-\x1f\x7f\\%?#]|(^|/)/", path) or {".", ".."} & {*path.split("/")}
    return path if address.startswith(folder) and not strange else None


def _hide(field: str) -> str:
    key, _, value = field.partition("=")
    return f"{key}={_HIDDEN}" if value.strip("=") else _HIDDEN  # a bare token may end in "=" (base64)
