from __future__ import annotations

import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.common.errors import InputError
from shards.common.urls import is_remote, join, local_path, path_below, redact, refuse_url

ANY = "".join(set(string.printable) - set(string.whitespace))


@pytest.mark.parametrize("where", ["http://h/x", "https://h", "s3://b/k", "gs://b", "hf://datasets/u/r", "S3://b"])
def test_remote(where: str) -> None:
    assert is_remote(where)


@pytest.mark.parametrize("where", ["data/x", "/data", "", ".", "file:///x", "FILE:///x", "C://x", "a b://x", "x:/y"])
def test_local(where: str) -> None:
    assert not is_remote(where)


@pytest.mark.parametrize(
    ("where", "path"),
    [
        ("data/x", "data/x"),
        ("/data/a%20b", "/data/a%20b"),
        ("file:///data/x", "/data/x"),
        ("File://localhost/data/a%20b%25", "/data/a b%"),
    ],
)
def test_local_paths(where: str, path: str) -> None:
    assert local_path(where) == Path(path)


@pytest.mark.parametrize("where", ["s3://b/k", "https://h/x", "file:///x", "GS://b"])
def test_nothing_is_written_to_a_url(where: str) -> None:
    with pytest.raises(InputError, match=r"is a URL, and only folders can be written to\. Name a folder"):
        refuse_url(Path(where))


def test_a_refused_url_keeps_its_secrets() -> None:
    with pytest.raises(InputError) as error:
        refuse_url(Path("https://user:secret@h/x?token=secret"))
    assert "secret" not in str(error.value) and "h/x" in str(error.value)


@pytest.mark.parametrize("where", ["data/x", "/data/x:/y", "x:y", "a b:/x", "x:/y", ".", "there"])
def test_other_names_may_be_written_to(where: str) -> None:
    refuse_url(Path(where))


def test_the_url_of_a_name_that_is_not_utf8() -> None:
    assert join("https://h/x", "a\udce9 b.tar") == "https://h/x/a%E9%20b.tar"


@pytest.mark.parametrize("where", ["file://", "file://host/x", "file://user:secret@host/x", "s3://user:secret@b"])
def test_no_local_path(where: str) -> None:
    with pytest.raises(InputError, match="not a path of this machine") as caught:
        local_path(where)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "name", "url"),
    [
        ("https://h/x", "a.tar", "https://h/x/a.tar"),
        ("https://h/x/", "a.tar", "https://h/x/a.tar"),
        ("https://h", "a.tar", "https://h/a.tar"),
        ("https://u:p%40q@h/a%20b?sig=x%2By/z==", "a.tar", "https://u:p%40q@h/a%20b/a.tar?sig=x%2By/z=="),
        ("http://h/x#top", "a.tar", "http://h/x/a.tar"),
        ("http://h/x?q#top", "a.tar", "http://h/x/a.tar?q#top"),
        ("http://h/x", "a b#1?%20.tar", "http://h/x/a%20b%231%3F%2520.tar"),
        ("http://h/x", "sub/ä.tar", "http://h/x/sub/%C3%A4.tar"),
        ("s3://b/a b#1", "a b#1%20.tar", "s3://b/a b#1/a b#1%20.tar"),
    ],
)
def test_join(base: str, name: str, url: str) -> None:
    assert join(base, name) == url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://h:8080/x/y", "https://h:8080/x/y"),
        ("hf://datasets/u/r@main/x", "hf://datasets/u/r@main/x"),
        ("mail me@h about http://h:80/x@y, please", "mail me@h about http://h:80/x@y, please"),
        ("s3://b/a#1.tar", "s3://b/a#1.tar"),
        ("is this a path? x=1", "is this a path? x=1"),
        ("GET https://u:p@h/x?sig=a&sas=b&c failed", "GET https://***@h/x?sig=***&sas=***&*** failed"),
        ("at http://u@h/x, then ftp://u:p@g", "at http://***@h/x, then ftp://***@g"),
        ("http://u:p@ss@h/x", "http://***@h/x"),
        ("http://u:p/a?s@s#s@h/x", "http://***@h/x"),
        ("http://h/x?c2VjcmV0==", "http://h/x?***"),
        ("http://h/x#access_token=a", "http://h/x#***"),
        ("simplecache::https://u:p@h/x?a=b", "simplecache::https://***@h/x?a=***"),
        ("https://proxy/https://u:p@h/x", "https://proxy/https://***@h/x"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


secrets = st.text(ANY, min_size=1).map(lambda text: f"S3cr3t{text}S3cr3t")
plain = st.text(string.ascii_letters + ".,:;'\" \n", max_size=8)


@given(st.lists(st.tuples(plain, secrets, secrets, secrets, st.booleans()), min_size=1, max_size=3), plain)
def test_no_secret_survives(urls: list[tuple[str, str, str, str, bool]], after: str) -> None:
    """Whatever characters users put into passwords and tokens, quoted as they should be or not."""
    text = ""
    for before, user, password, token, quoted in urls:
        if quoted:
            user, password, token = (quote(secret, safe="") for secret in (user, password, token))
        else:
            user = user.translate(dict.fromkeys(map(ord, "/?#:@"), "-"))
            token = token.replace("@", "-")  # behind a password, everything up to the last "@" is hidden
        text += f"{before} https://{user}:{password}@host:80/path?sig={token}&{quote(token)}&key={token} "
    shown = redact(text + after)
    assert "S3cr3t" not in shown
    assert shown.count("host:80/path?sig=***&") == len(urls)


@given(st.text(ANY + " \n"), st.text(ANY + " \n"))
def test_redacting_twice_changes_nothing(before: str, after: str) -> None:
    once = redact(f"{before}://{after}")
    assert redact(once) == once


@pytest.mark.parametrize(
    ("own", "other", "path"),
    [
        ("https://h/x", "https://h/x", ""),
        ("https://h:443/x/", "https://h:443/x/a%20b/c", "a b/c"),
        ("https://h/x", "https://h/x/a%2fb", "a/b"),
        ("https://h/x", "HTTPS://h/x", None),
        ("https://h/x", "https://h:443/x", None),
        ("https://h/x", "https://h/x?to=evil", None),
        ("https://h/x", "https://h/x/y?to=evil", None),
        ("https://h/x", "https://h/x//evil", None),
        ("https://u:p/@h/x?sig=a/b#top", "https://h/x/y", "y"),
        ("https://h", "https://h/..x/...", "..x/..."),
        ("http://[::1]:80/x", "http://[::1]:80/x/y", "y"),
        ("s3://Bucket/x y", "s3://Bucket/x y/a b", "a b"),
        ("hf://datasets/u/r@v1", "hf://datasets/u/r@v1/tars", "tars"),
        ("s3://Bucket/x", "s3://bucket/x", None),
        ("s3://bucket/x", "s3://bucket/x/%2E%2e/y", None),
        ("hf://datasets/u/r", "hf://datasets/u/r@v1/tars", None),
        ("http://h/x", "https://h/x", None),
        ("http://h/x", "http://h:8080/x", None),
    ],
)
def test_paths_below(own: str, other: str, path: str | None) -> None:
    assert path_below(own, other) == path


@pytest.mark.parametrize(
    "base",
    [
        "tars", "FILE:///etc", "C:\\tars", "http://h:2/a/data%20set", "https://h:1/a/data%20set", "http://h:1",
        "http://h:1/a/data%20set2", "http://h:1/a/data%20set/../..", "http://h:1/a/data%20set/.%2E/x",
        "http://h:1/a/data%20set/%252e%252e/x", "http://h:1/a/data%20set/x%2f..%2f..", "http://h:1/a/data%20set/..\\x",
        "http://h:1/a/data%20set/x%5c..", "http://h:1/a/./data%20set", "http://h:1\n/a/data%20set",
        "http://h:1/a/data%20set/x\n", "http://evil@h:1/a/data%20set", "http://h:1@evil/a/data%20set",
        "http://h:1/a/data%20set?to=evil", "http://h:1/a/data%20set#evil", "http://h:x/a/data%20set",
        "//h:1/a/data%20set", "gs://bucket/a", "hf://datasets/u/r", "memory://a/data set", "simplecache::file:///etc",
        "ftp://h:1/a",
    ],
)  # fmt: skip
def test_what_is_not_below(base: str) -> None:
    assert path_below("http://h:1/a/data%20set", base) is None
