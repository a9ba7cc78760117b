from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from shards.common.errors import InputError
from tests.support.fake_wandb import KEY
from trainer.config import Tracking
from trainer.watch import wandb_board
from trainer.watch.tracker import check
from trainer.watch.wandb_board import MODES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wandb


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, an empty working directory beside it, and no W&B settings."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with patch.dict(os.environ, {"HOME": str(folder)}):
        for name in [name for name in os.environ if name.startswith(("WANDB_", "XDG_", "NETRC"))]:
            del os.environ[name]
        yield folder


def write(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


def resolve_mode(requested: str) -> str:
    """The mode, without a warning."""
    mode, warning = wandb_board.resolve_mode(requested)
    assert warning is None
    return mode


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_an_explicit_mode_wins(mode: str) -> None:
    with patch.dict(os.environ, {"WANDB_MODE": "offline", "WANDB_API_KEY": "x"}):
        assert resolve_mode(mode) == mode


def test_online_without_a_key_is_an_error_and_not_a_question() -> None:
    with pytest.raises(InputError, match="no API key"):
        resolve_mode("online")
    with patch.dict(os.environ, {"WANDB_MODE": "online"}), pytest.raises(InputError, match="no API key"):
        resolve_mode("auto")


def test_auto_is_offline_without_a_key_and_online_with_one() -> None:
    assert resolve_mode("auto") == "offline"
    with patch.dict(os.environ, {"WANDB_API_KEY": "x"}):
        assert resolve_mode("auto") == "online"


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_auto_follows_wandb_mode(mode: str) -> None:
    with patch.dict(os.environ, {"WANDB_API_KEY": "x", "WANDB_MODE": mode}):
        assert resolve_mode("auto") == mode


NETRC = f"machine api.wandb.ai login user password {KEY}\n"


@pytest.mark.parametrize(
    ("text", "server", "expected"),
    [
        (NETRC, None, "online"),
        (NETRC, "https://wandb.example.org:8080", "offline"),
        (NETRC.replace("api.wandb.ai", "wandb.example.org:8080"), "https://wandb.example.org:8080", "online"),
        (NETRC.replace(f" password {KEY}", ""), None, "offline"),
        (NETRC.replace("api.wandb.ai", "github.com"), None, "offline"),
        ("nonsense", None, "offline"),
    ],
)
def test_auto_reads_the_netrc(home: Path, text: str, server: str | None, expected: str) -> None:
    variables = {"WANDB_BASE_URL": server} if server else {}
    for path, more in ((home / ".netrc", {}), (home / "elsewhere", {"NETRC": str(home / "elsewhere")})):
        path.write_text(text)
        path.chmod(0o600)
        with patch.dict(os.environ, variables | more):
            assert resolve_mode("auto") == expected
        path.unlink()


@pytest.mark.parametrize(
    ("variables", "files"),
    [
        ({}, {"../home/.netrc": NETRC.replace(KEY, "x").encode()}),
        ({}, {"../home/.netrc": b"\xff\xfe\x00"}),
        ({}, {"wandb/settings": b"\xff\xfe\x00"}),
        ({"WANDB_BASE_URL": "wandb.local"}, {}),
        ({"WANDB_BASE_URL": "https://me:secret@wandb.ai"}, {}),
        ({"WANDB_INIT_TIMEOUT": "abc"}, {}),
        ({"WANDB_API_KEY": " secret"}, {}),
    ],
)
def test_settings_that_wandb_rejects_make_auto_offline(
    variables: dict[str, str], files: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    write(files)
    with patch.dict(os.environ, variables):
        mode, warning = wandb_board.resolve_mode("auto")
        with pytest.raises(InputError, match="W&B is not available: its settings cannot be used") as error:
            resolve_mode("online")
    assert mode == "offline" and warning and warning.startswith("is offline: its settings cannot be used (")
    assert not any(word in warning + str(error.value) for word in ("secret", "\n"))
    assert capfd.readouterr().err == ""


def test_a_wandb_that_changed_its_private_modules_makes_auto_offline() -> None:
    with patch.dict("sys.modules", {"wandb.sdk.lib.wbauth": None}), patch.object(wandb.sdk.lib, "wbauth"):
        del wandb.sdk.lib.wbauth
        mode, warning = wandb_board.resolve_mode("auto")
    assert mode == "offline" and "wbauth" in str(warning)


@pytest.mark.parametrize("settings", [b"nonsense", b"[default]\ninit_timeout = abc"])
def test_settings_files_that_wandb_ignores_print_nothing(settings: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    write({"wandb/settings": settings, "../home/.netrc": b"nonsense"})
    wandb.termsetup(wandb.Settings(silent=False), None)
    assert resolve_mode("auto") == "offline"
    assert capfd.readouterr().err == ""


def test_modes_mean_the_same_as_in_wandb() -> None:
    for word, meaning in MODES.items():
        settings = wandb.Settings(mode=word)
        assert (settings._offline, settings._noop) == (meaning == "offline", meaning == "disabled")
        with patch.dict(os.environ, {"WANDB_API_KEY": "x", "WANDB_MODE": word}):
            assert resolve_mode("auto") == meaning


@pytest.mark.parametrize("word", ["ofline", "shared", "ONLINE"])
@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_an_unknown_mode_is_an_error_that_lists_the_known_ones(word: str, mode: str) -> None:
    with patch.dict(os.environ, {"WANDB_MODE": word}), pytest.raises(InputError, match=f"{word!r}.*online, run, off"):
        resolve_mode(mode)


def test_disabled_asks_for_no_mode_and_no_names() -> None:
    with patch.dict(os.environ, {"WANDB_MODE": "shared", "WANDB_RUN_ID": "a/b"}):
        check(Tracking(mode="disabled"))


def test_an_empty_variable_is_unset() -> None:
    names = (
        "MODE",
        "DISABLED",
        "API_KEY",
        "RUN_ID",
        "PROJECT",
        "SWEEP_ID",
        "BASE_URL",
        "RESUME",
        "INIT_TIMEOUT",
        "TAGS",
    )
    with patch.dict(os.environ, {f"WANDB_{name}": "" for name in names} | {"WANDB_CONFIG_DIR": " "}):
        check(Tracking())
        assert [resolve_mode(mode) for mode in ("auto", "offline", "disabled")] == ["offline", "offline", "disabled"]
        with pytest.raises(InputError, match="no API key"):
            resolve_mode("online")
        with patch.dict(os.environ, {"WANDB_API_KEY": KEY}):
            assert resolve_mode("auto") == "online"


@pytest.mark.parametrize("name", ["a/b", "a:b", " a", "a\n", "x" * 129])
def test_a_name_that_wandb_would_refuse_is_refused_before_the_start(name: str) -> None:
    with (
        patch.dict(os.environ, {"WANDB_RUN_ID": name}),
        pytest.raises(InputError, match=r"^WANDB_RUN_ID is '") as error,
    ):
        check(Tracking())
    assert "\n" not in str(error.value)
    with patch.dict(os.environ, {"WANDB_PROJECT": name}):
        with pytest.raises(InputError, match=r"^WANDB_PROJECT is '"):
            check(Tracking())
        check(Tracking(project="mine"))


def test_without_a_home_only_the_variables_count() -> None:
    """As a user without an entry in /etc/passwd has it in a container."""
    with patch.dict(os.environ), patch("pwd.getpwuid", side_effect=KeyError):
        del os.environ["HOME"]
        assert resolve_mode("auto") == "offline"
        with patch.dict(os.environ, {"WANDB_API_KEY": KEY}):
            assert resolve_mode("auto") == "online"


def test_auto_follows_wandb_disabled() -> None:
    with patch.dict(os.environ, {"WANDB_DISABLED": "true", "WANDB_API_KEY": "x"}):
        assert (resolve_mode("auto"), resolve_mode("online")) == ("disabled", "online")
        with patch.dict(os.environ, {"WANDB_MODE": "offline"}):
            assert resolve_mode("auto") == "offline"


HERE, USER = "wandb/settings", "../home/.config/wandb/settings"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({USER: "mode = offline"}, "offline"),
        ({USER: "mode = disabled", HERE: "mode = dryrun"}, "offline"),
        ({USER: "mode = offline", HERE: "mode = online"}, "online"),
        ({HERE: "base_url = https://wandb.example.org:8080"}, "online"),
        ({HERE: "base_url = https://wandb.example.org"}, "offline"),
        ({HERE: "base_url = https://wandb.example.org\napi_key = x"}, "online"),
        ({USER: "base_url = https://wandb.example.org:8080", HERE: "nonsense\n[["}, "online"),
    ],
)
def test_auto_reads_wandbs_settings_files(home: Path, files: dict[str, str], expected: str) -> None:
    (home / ".netrc").write_text(NETRC.replace("api.wandb.ai", "wandb.example.org:8080"))
    write({name: f"[default]\n{text}\n".encode() for name, text in files.items()})
    with patch.dict(os.environ, {} if "base_url" in str(files) else {"WANDB_API_KEY": "x"}):
        assert resolve_mode("auto") == expected
