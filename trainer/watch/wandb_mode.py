"""Whether a run reports to W&B, as wandb itself would decide, but asking nobody and without its second of import."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from shards.common.errors import InputError

Mode = Literal["online", "offline", "disabled"]

WORDS: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""What WANDB_MODE may say. wandb's ``shared`` is for several writers of one run, which this trainer is not."""


def resolve_mode(mode: str) -> Mode:
    """``auto`` to what WANDB_MODE, WANDB_DISABLED or ``wandb offline`` (which writes wandb's settings file) say, else
    to ``online`` when a key is configured for the server (environment, netrc or settings file), else to ``offline``.

    WANDB_DISABLED is honoured although wandb dropped it: whoever sets it wants no W&B.

    Raises:
        InputError: ``online`` without a key, where wandb would ask for one; or a WANDB_MODE that is none.
    """
    said = os.environ.get("WANDB_MODE")
    if said is not None and said not in WORDS:  # whatever ``mode`` is: wandb reads it too, and fails
        raise InputError(f"WANDB_MODE is {said!r}; it must be one of {', '.join(WORDS)}.")
    files = _settings()
    wanted: str = WORDS[said] if said and mode == "auto" else mode
    if wanted == "auto" and os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        wanted = "disabled"
    if wanted == "auto" and WORDS.get(files.get("mode", ""), "online") != "online":
        wanted = WORDS[files["mode"]]
    if wanted in ("offline", "disabled"):
        return WORDS[wanted]
    keyed = _has_key(files)
    if wanted == "online" and not keyed:
        raise InputError("W&B has no API key here. Run `wandb login` first, or give --tracking.mode offline.")
    return "online" if keyed else "offline"


def _settings() -> dict[str, str]:
    """What wandb's settings files say, the user's below those of the working directory; a broken one says nothing."""
    home = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    found: dict[str, str] = {}
    for path in (home / "settings", Path(".wandb" if Path(".wandb").exists() else "wandb") / "settings"):
        parser = configparser.ConfigParser()
        try:
            parser.read(path)
            found |= parser.items("default")
        except (configparser.Error, OSError, ValueError):  # ValueError: not text
            continue
    return found


def _has_key(files: dict[str, str]) -> bool:
    """Whether there is one for the server; netrc names it with its port, as ``wandb login`` writes it."""
    if {"WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"} & {name for name, value in os.environ.items() if value}:
        return True
    server = os.environ.get("WANDB_BASE_URL") or files.get("base_url", "https://api.wandb.ai")
    usual = [path for path in (Path.home() / ".netrc", Path.home() / "_netrc") if path.exists()]
    path = os.environ.get("NETRC") or next(iter(usual), None)
    if "api_key" in files:
        return True
    try:
        entry = netrc.netrc(Path(path).expanduser()).authenticators(urlsplit(server).netloc) if path else None
    except (OSError, ValueError, netrc.NetrcParseError):  # ValueError: not text
        return False
    return bool(entry and entry[2])
