"""Addresses of data sets: what is remote, how names are put together, and what may be shown of them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from shards.common.errors import InputError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # one letter would be a drive of Windows

_USERINFO = re.compile(
    r"""(?<=://)(?:
        [^\s/?#:]*:(?!\d*(?:[/?#\s]|$))\S*@     # up to the last "@": a password may hold "@", "/", "?" and "#" as well
      | [^\s/?#]*@                              # a user, or a token, alone
    )""",
    re.VERBOSE,
)
_QUERY = re.compile(r"(://[^\s?]*)\?(\S*)")
_FRAGMENT = re.compile(r"(://[^\s?#]*)#(?=\S*=)\S*")
_HIDDEN = "***"


def is_remote(where: str) -> bool:
    """Whether ``where`` is a URL of something that is not in the local file system."""
    scheme = _SCHEME.match(where)
    return scheme is not None and scheme[1].lower() != "file"


def local_path(where: str) -> Path:
    """The path that ``where``, a path or a ``file://`` URL (RFC 8089: percent-encoded), stands for.

    Raises:
        InputError: the URL names another host, or another scheme.
    """
    scheme = _SCHEME.match(where)
    if scheme is None:
        return Path(where)
    host, slash, path = where[scheme.end() :].partition("/")
    if scheme[1].lower() != "file" or host.lower() not in {"", "localhost"}:
        raise InputError(f"{redact(where)} is not a path of this machine; write file:///the/path.")
    return Path(unquote(slash + path))


def join(base: str, name: str) -> str:
    """The URL of the file ``name`` in the folder ``base``.

    A query of ``base`` (a signature, a SAS token) stays at the end, and nothing of ``base`` is quoted again. ``name``
    is a file's name as it is: for HTTP it is percent-encoded once, everywhere else it is part of a key.
    """
    folder, mark, query = base.partition("?")
    if folder.lower().startswith(("http://", "https://")):
        folder, name = folder.partition("#")[0], quote(name)
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def redact(text: str) -> str:
    """``text`` with the user, the password and all values of the query taken out of every URL in it.

    It rather hides too much: a query ends at white space only, and what stands before a later "@" may be a password.
    """
    text = _USERINFO.sub(f"{_HIDDEN}@", text)
    text = _QUERY.sub(lambda found: f"{found[1]}?{'&'.join(map(_hide, found[2].split('&')))}", text)
    return _FRAGMENT.sub(rf"\1#{_HIDDEN}", text)


def bare(url: str) -> str:
    """``url`` without user, password, query and fragment: what may be written down and still be an address."""
    return _USERINFO.sub("", url).partition("?")[0].partition("#")[0]


def _hide(field: str) -> str:
    key, _, value = field.partition("=")
    return f"{key}={_HIDDEN}" if value.strip("=") else _HIDDEN  # a bare token may end in "=" (base64)
