"""What the environment decides about a W&B run: its id, project and folders. An empty variable counts as unset."""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

from shards.common.errors import InputError
from shards.common.files import atomic_write

ID_FILE = "wandb-id"  # of the run folder: the W&B id of the run
SENT = "board-has"  # of the run folder: the position, in real images, up to which W&B is known to have everything
LONGEST_NAME = 128


def unset_empty_variables() -> None:
    """Unset W&B's empty variables: wandb rejects some of them, and takes others for a value."""
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value.strip()]:
        del os.environ[name]


def check_names(project: str | None) -> None:
    """Raise ``InputError`` if W&B would refuse ``project``, from the flag, or the environment's project or run id."""
    unset_empty_variables()
    names = [("--tracking.project", project, "/\\#?%:"), ("WANDB_RUN_ID", os.environ.get("WANDB_RUN_ID"), ":;,#?/'")]
    if project is None:
        names[0] = ("WANDB_PROJECT", os.environ.get("WANDB_PROJECT"), "/\\#?%:")
    for source, name, reserved in names:
        if name is not None and (
            not 0 < len(name) <= LONGEST_NAME
            or name != name.strip()
            or not name.isprintable()
            or set(name) & set(reserved)
        ):
            raise InputError(
                f"{source} is {name!r}; W&B accepts 1 to {LONGEST_NAME} characters, none of {' '.join(reserved)}"
            )


def load_run_id(run: Path) -> tuple[str, bool]:
    """The W&B id of the run in the folder ``run``, and whether it is new: W&B then has nothing of the run.

    WANDB_RUN_ID, which a sweep's agent sets, precedes the id kept in the folder. Every start resumes the id, offline
    too.
    """
    path = run / ID_FILE
    kept = path.read_text().strip() if path.exists() else ""
    name = os.environ.get("WANDB_RUN_ID") or kept or uuid.uuid4().hex[:8]
    if name != kept:
        (run / SENT).unlink(missing_ok=True)
        with atomic_write(path) as file:
            file.write(name.encode())
    return name, name != kept


def use_writable_folders(run: Path) -> str | None:
    """Point wandb's folders into the run folder where the home folder is unset or not writable.

    wandb's process would print its log on the terminal instead. Folders that the user has set are kept if they are
    writable. Otherwise the returned warning names them, and WANDB_DIR is unset: wandb would write into /tmp.
    """
    refused = []
    home = os.environ.get("HOME") or os.devnull  # where no folder can be
    for name, parent in (
        ("cache", os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache"),
        ("data", os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"),
        ("config", f"{home}/.config"),
    ):
        variable = f"WANDB_{name.upper()}_DIR"
        folder = Path(os.environ.get(variable) or Path(parent, "wandb"))
        if not os.access(folder / "settings", os.R_OK) and not _is_writable(folder):
            refused += [f"{variable}={folder}"] if variable in os.environ else []
            os.environ[variable] = str(run.absolute() / "wandb" / name)
    if not Path(os.path.expanduser("~")).is_absolute():  # noqa: PTH111  # a user without an entry in passwd
        os.environ.setdefault("XDG_DATA_HOME", str(run.absolute() / "wandb"))  # artifacts look for wandb's default
    if "WANDB_DIR" in os.environ and not _is_writable(Path(os.environ["WANDB_DIR"])):
        refused.append(f"WANDB_DIR={os.environ.pop('WANDB_DIR')}")
    return f"writes into {run}: {', '.join(refused)} cannot be written." if refused else None


def _is_writable(folder: Path) -> bool:
    """Whether ``folder`` can be created, if necessary, and written; permissions alone do not tell."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
