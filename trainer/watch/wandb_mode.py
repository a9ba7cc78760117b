"""Decides whether a run reports to W&B, by wandb's own rules but without importing it.

Without this module every rank would import wandb before training (0.4 s of a start of 2.5 s) and call functions that
wandb does not document (``Settings.update_from_*``, ``wandb.sdk.lib.wbauth``), so any update could break the start.
"""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from shards.common.errors import InputError

Mode = Literal["online", "offline", "disabled"]

MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""Values of WANDB_MODE and their meaning. ``shared``, where several processes write one run, is not supported."""


def resolve_mode(mode: str) -> Mode:
    """Resolve ``--tracking.mode``. ``auto`` is decided by, in this order: WANDB_MODE, WANDB_DISABLED (which wandb no
    longer reads), the settings file that ``wandb offline`` writes, and whether an API key is configured for the server.

    Raises:
        InputError: ``online`` without a key, where wandb would prompt, or an unknown WANDB_MODE.
    """
    variable = os.environ.get("WANDB_MODE")
    if variable is not None and variable not in MODES:  # for any ``mode``, because wandb reads the variable too
        raise InputError(f"WANDB_MODE is {variable!r}; it must be one of {', '.join(MODES)}.")
    settings = _read_settings_files()
    if mode == "auto":
        if variable:
            mode = MODES[variable]
        elif os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
            mode = "disabled"
        elif (configured := MODES.get(settings.get("mode", ""), "online")) != "online":
            mode = configured
    if mode in ("offline", "disabled"):
        return MODES[mode]
    if _has_api_key(settings):
        return "online"
    if mode == "online":
        raise InputError("W&B has no API key here. Run `wandb login` first, or give --tracking.mode offline.")
    return "offline"


def _read_settings_files() -> dict[str, str]:
    """Options of the user's settings file, overridden by those of the working directory. Broken files are ignored."""
    user = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    local = Path(".wandb" if Path(".wandb").exists() else "wandb")
    settings: dict[str, str] = {}
    for folder in (user, local):
        parser = configparser.ConfigParser()
        try:
            parser.read(folder / "settings")
            settings |= parser.items("default")
        except (configparser.Error, OSError, ValueError):  # ValueError: not text
            continue
    return settings


def _has_api_key(settings: dict[str, str]) -> bool:
    """Whether the environment, the settings or netrc hold a key. netrc names the server with its port, as ``wandb
    login`` writes it.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or "api_key" in settings:
        return True
    server = os.environ.get("WANDB_BASE_URL") or settings.get("base_url", "https://api.wandb.ai")
    defaults = [path for path in (Path.home() / ".netrc", Path.home() / "_netrc") if path.exists()]
    path = os.environ.get("NETRC") or next(iter(defaults), None)
    try:
        entry = netrc.netrc(Path(path).expanduser()).authenticators(urlsplit(server).netloc) if path else None
    except (OSError, ValueError, netrc.NetrcParseError):  # ValueError: not text
        return False
    return bool(entry and entry[2])
