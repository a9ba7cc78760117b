"""Where figures go: ``metrics.jsonl`` always, Weights & Biases through accelerate when it is wanted and works."""

from __future__ import annotations

import netrc
import os
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from accelerate import Accelerator

from shards.errors import InputError
from shards.files import atomic_write
from trainer.config import Config, flatten
from trainer.folder import RunFolder
from trainer.journal import Journal

AXIS = "images"
"""The one x axis: real images consumed. Comparable between batch sizes and ranks."""


def resolve_mode(mode: str) -> Literal["online", "offline", "disabled"]:
    """``auto`` to what WANDB_MODE says, else to ``online`` when a key is configured (environment or netrc), else to
    ``offline``.

    Raises:
        InputError: ``online`` without a key, where wandb would ask for one.
    """
    wanted = os.environ.get("WANDB_MODE", mode) if mode == "auto" else mode
    if wanted in ("offline", "disabled"):
        return wanted  # type: ignore[return-value]
    keyed = bool(os.environ.get("WANDB_API_KEY")) or _netrc_has_key()
    if wanted == "online" and not keyed:
        raise InputError("W&B has no API key here. Run `wandb login` first, or give --tracking.mode offline.")
    return "online" if keyed else "offline"


class Tracker:
    """Writes rows of figures and sheets of images.

    No failure of W&B stops or fails a run; the first one is said once.
    """

    def __init__(self, accelerator: Accelerator, folder: RunFolder, config: Config, facts: Mapping[str, Any]) -> None:
        self._journal = Journal(folder.metrics)
        self._run: Any = None
        mode = resolve_mode(config.tracking.mode)
        if mode != "disabled":
            self._try(lambda: self._start(accelerator, folder, config, facts, mode))

    def log(self, row: Mapping[str, Any]) -> None:
        """One row of scalars; must hold ``step`` and ``images``."""
        self._journal.append(row)
        if self._run is not None:
            self._try(lambda: self._run.log(dict(row)))

    def log_sheet(self, name: str, path: Path, images: int) -> None:
        """The PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""

        def upload() -> None:
            import wandb

            self._run.log({f"samples/{name}": wandb.Image(str(path)), AXIS: images})

        if self._run is not None:
            self._try(upload)

    def sync(self) -> None:
        """Make the journal durable; called before a checkpoint that counts on it is published."""
        self._journal.sync()

    def close(self, *, failed: bool) -> None:
        """Close the journal and finish the W&B run, as failed or not."""
        self._journal.close()
        if self._run is not None:
            self._try(lambda: self._run.finish(exit_code=int(failed)))

    def _start(
        self, accelerator: Accelerator, folder: RunFolder, config: Config, facts: Mapping[str, Any], mode: str
    ) -> None:
        """One W&B run over all restarts: its id lives in the run folder and is always resumed, offline too."""
        os.environ.setdefault("WANDB_SILENT", "true")
        identity = folder.path / "wandb-id"
        if not identity.exists():
            with atomic_write(identity) as file:
                file.write(uuid.uuid4().hex[:8].encode())
        options = {
            "id": identity.read_text().strip(),
            "resume": "allow",
            "mode": mode,
            "dir": str(folder.path),
            "name": folder.path.name,
            "config": {**flatten(config), **facts},
        }
        try:
            accelerator.init_trackers(config.tracking.project, init_kwargs={"wandb": options})
            self._run = accelerator.get_tracker("wandb", unwrap=True)
        finally:
            accelerator.trackers.clear()  # close() finishes the run; accelerate would once more, and raise
        self._run.define_metric("*", step_metric=AXIS)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # wandb raises its own, its core's and the network's; none of them is worth a run
            self._run = None
            warnings.warn(f"Weights & Biases is off for the rest of this run: {error}", stacklevel=2)


def _netrc_has_key() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):  # ValueError: not text
        return False
