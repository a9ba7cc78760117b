"""Weights & Biases, through accelerate: one W&B run over all restarts, online or kept in the run folder."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from accelerate import Accelerator

from shards.common.errors import InputError
from shards.common.urls import redact
from trainer.folder.run_folder import CHECKSUMS
from trainer.watch.board import AXIS, Board, JobSkipped, Metadata, describe
from trainer.watch.wandb_environment import load_run_id, unset_empty_variables, use_writable_folders

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""Values of WANDB_MODE and their meaning. ``shared``, where several processes write one run, is not supported."""

PROJECT = "shardgan"  # if nothing names one
INIT_TIMEOUT, FINISH_TIMEOUT = 25.0, 40.0  # seconds for a server to start a run, and to accept the rest at its end
STOP_TIMEOUT = 5.0  # seconds for wandb's process to end after a failure


def resolve_mode(requested: str) -> tuple[str, str | None]:
    """Resolve ``--tracking.mode`` to online, offline or disabled, without a prompt and without wandb's process.

    ``auto`` is decided by, in this order: WANDB_MODE, WANDB_DISABLED (which wandb no longer reads), wandb's settings
    files, and whether wandb finds an API key for its server. Returns also a warning if wandb cannot find out, which
    makes ``auto`` offline.

    Raises ``InputError`` for an unknown WANDB_MODE, for ``online`` without a key, where wandb would prompt, and for
    ``online`` as flag with settings that wandb rejects.
    """
    if requested == "disabled":
        return requested, None
    unset_empty_variables()
    mode, variable = requested, os.environ.get("WANDB_MODE")
    if variable and variable not in MODES:  # for ``offline`` too, because wandb reads the variable itself
        raise InputError(f"WANDB_MODE is {variable!r}; it must be one of {', '.join(MODES)}.")
    if mode == "auto" and variable:
        mode = MODES[variable]
    elif mode == "auto" and os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        mode = "disabled"
    if mode in ("offline", "disabled"):
        return mode, None
    try:
        configured, has_key = _read_settings()
    except Exception as error:  # also an ImportError: wandb's authentication is not a public module
        problem = f"its settings cannot be used ({describe(error)})."
        if requested == "online":
            raise InputError(f"W&B is not available: {problem}") from error
        return "offline", f"is offline: {problem}"
    if mode == "auto" and configured != "online":
        return configured, None
    if has_key:
        return "online", None
    if mode == "online":
        raise InputError("W&B has no API key here. Run `wandb login` first, or give --tracking.mode offline.")
    return "offline", None


def _read_settings() -> tuple[str, bool]:
    """The mode that wandb's settings files and variables name, and whether wandb finds an API key for its server."""
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.Settings(silent=True)
    wandb.termsetup(settings, None)  # prints nothing until wandb starts
    folder = os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")
    settings.settings_system = os.path.expanduser(f"{folder}/settings")  # noqa: PTH111  # Path's raises without a home
    settings.update_from_system_settings()
    settings.update_from_env_vars(dict(os.environ))
    key = settings.api_key or settings.identity_token_file
    with suppress(RuntimeError):  # no home folder, so no netrc
        key = key or wbauth.read_netrc_auth(host=settings.base_url)
    return MODES.get(settings.mode, "online"), bool(key)


class WandbBoard(Board):
    """wandb is imported in functions only: that takes half a second, which ranks without a board are spared."""

    name = "Weights & Biases"

    def __init__(self, accelerator: Accelerator, run: Path, project: str | None, mode: str, metadata: Metadata) -> None:
        self._accelerator, self._folder, self._project, self._mode = accelerator, run, project, mode
        self._metadata = metadata
        self.remedy = _remedy(run)

    def open(self) -> None:
        """Start online, or offline with a warning if the server does not accept the run: wandb keeps nothing on disk of
        an online run that failed to start.
        """
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_INIT_TIMEOUT", str(INIT_TIMEOUT))
        warning = use_writable_folders(self._folder)
        self.startup_warning = self.startup_warning or warning
        self.remedy = _remedy(Path(os.environ.get("WANDB_DIR", self._folder)))
        self._id, self.is_empty = load_run_id(self._folder)
        settings = wandb.Settings(
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
            console="off",  # every printed line would wait for wandb
            disable_git=True,  # the remote may hold a token, the patch any secret; the config has the commit
        )
        own = {"dir": str(self._folder), "name": self._folder.name, "resume": "allow"}
        options = {
            **{option: value for option, value in own.items() if f"WANDB_{option.upper()}" not in os.environ},
            "config": dict(self._metadata()),
            "settings": settings,
            **slurm_options(os.environ),
        }
        try:
            self._init(options, self._mode)
        except Exception as error:
            if self._mode != "online":
                raise
            self.abort()
            offline = wandb.setup(wandb.Settings(mode="offline"))  # or wandb's telemetry waits for the server at exit
            self.startup_warning = (
                f"is offline: {redact(offline.settings.base_url)} does not accept the run "
                f"({describe(error)}). The run is kept on disk. {self.remedy}"
            )
            self._init(options, "offline")
        self._run.define_metric("*", step_metric=AXIS)

    def _init(self, options: Mapping[str, Any], mode: str) -> None:
        import wandb

        project = self._project or wandb.setup().settings.project or PROJECT
        # Not options of `init`: in a sweep it ignores them.
        wandb.setup(wandb.Settings(run_id=self._id, project=project))
        try:
            self._accelerator.init_trackers(project, init_kwargs={"wandb": {**options, "mode": mode}})
            self._run = self._accelerator.get_tracker("wandb", unwrap=True)
        finally:
            self._accelerator.trackers.clear()  # accelerate would finish the run a second time, which raises

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def alert(self, text: str) -> None:
        self._run.alert(title="Training goes wrong", text=text, level="WARN")

    def log_sheet(self, name: str, path: Path, caption: str, images: int) -> None:
        import wandb

        with _skip_if_removed(path):
            self._run.log({f"samples/{name}": wandb.Image(str(path), caption=caption), AXIS: images})

    def log_checkpoint(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        with _skip_if_removed(folder):
            names = {CHECKSUMS, *json.loads((folder / CHECKSUMS).read_text())}
            artifact = self._create_artifact("checkpoint", "checkpoint", folder, metadata)
            if not names <= artifact.manifest.entries.keys():
                raise FileNotFoundError(folder)
        self._run.log_artifact(artifact, aliases=["latest", folder.name])

    def log_generator(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        self._run.log_artifact(self._create_artifact("generator", "model", folder, metadata), aliases=["latest"])

    def _create_artifact(self, name: str, type: str, folder: Path, metadata: Mapping[str, Any]) -> Any:
        import wandb

        artifact = wandb.Artifact(f"{name}-{self._run.id}", type=type, metadata=dict(metadata))
        artifact.add_dir(str(folder))  # copies: the folder may be removed before it is sent
        return artifact

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))

    def abort(self, *, at_once: bool = False) -> None:
        """Ask wandb's process to end and kill it after :data:`STOP_TIMEOUT` or ``at_once``. wandb itself waits for its
        process without a limit, also at interpreter exit, and the process waits for the server.
        """
        import wandb

        services = [child for child in psutil.Process().children() if child.name() == "wandb-core"]

        def kill() -> None:
            for service in services:
                with suppress(psutil.NoSuchProcess):
                    service.kill()

        timer = threading.Timer(0 if at_once else STOP_TIMEOUT, kill)
        timer.start()
        with suppress(Exception, SystemExit):  # the process may be gone already; its exit code is passed on
            wandb.teardown(exit_code=1)  # also removes the exit hook that would wait
        timer.cancel()


def _remedy(parent: Path) -> str:
    return f"Send it later: wandb sync {parent / 'wandb' / 'latest-run'}"


def slurm_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """``group`` (one per job or job array) and ``tags`` of a SLURM job, unless W&B's own variables set them."""
    options: dict[str, Any] = {}
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    if job and not environment.get("WANDB_RUN_GROUP"):
        options["group"] = f"slurm-{job}"
    if job and not environment.get("WANDB_TAGS"):
        options["tags"] = ["slurm", *filter(None, [environment.get("SLURM_JOB_PARTITION")])]
    return options


@contextmanager
def _skip_if_removed(path: Path) -> Iterator[None]:
    """Raise :class:`JobSkipped` if the block fails because ``path`` was removed before or while it was read."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:  # ValueError: raised by wandb for a missing folder
        raise JobSkipped(f"did not get {path.name}: it was removed before it could be sent.") from error
