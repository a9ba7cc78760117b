"""Weights & Biases, through accelerate: one W&B run over all restarts, online or kept in the run folder."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from shards.files import atomic_write
from trainer.boards import AXIS

ANSWER, START, END = 10.0, 25.0, 40.0
"""Seconds that a server has to say anything, to begin a run, and to take the rest in the end."""


def remedy(run: Path) -> str:
    """How to send what a server did not take from the run folder ``run``."""
    return f"Send it later: wandb sync {run / 'wandb' / 'latest-run'}"


def from_slurm(environment: Mapping[str, str]) -> dict[str, Any]:
    """``group`` (a job array's tasks are one) and ``tags`` of a SLURM job, unless W&B's own variables say otherwise."""
    found: dict[str, Any] = {}
    job = environment.get("SLURM_ARRAY_JOB_ID") or environment.get("SLURM_JOB_ID")
    if job and "WANDB_RUN_GROUP" not in environment:
        found["group"] = f"slurm-{job}"
    if job and "WANDB_TAGS" not in environment:
        found["tags"] = ["slurm", *filter(None, [environment.get("SLURM_JOB_PARTITION")])]
    return found


def identity(run: Path) -> str:
    """The id of the run in the folder ``run``, made up once and kept there: it is always resumed, offline too."""
    path = run / "wandb-id"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(uuid.uuid4().hex[:8].encode())
    return path.read_text().strip()


def answers(url: str) -> bool:
    """Whether a server at ``url`` says anything, be it an error, within :data:`ANSWER` seconds.

    Asked first, because an online run whose server is silent at its start keeps nothing on disk.
    """
    try:
        urllib.request.urlopen(url, timeout=ANSWER).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


class WandbBoard:
    """A :class:`trainer.boards.Board`."""

    note: str | None = None

    def __init__(self, accelerator: Accelerator, run: Path, project: str, mode: str, facts: Mapping[str, Any]) -> None:
        # Not at the top: it takes a second to import, and this thread has it.
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        self._folder = run
        settings = wandb.Settings(
            init_timeout=START,
            finish_timeout=END,
            finish_timeout_raises=True,
            console="off",  # each line that is printed would wait for wandb
            disable_git=True,  # its remote may hold a token, and the patch anything; the config has the commit
        )
        options = {
            "id": identity(run),
            "resume": "allow",
            "dir": str(run),
            "name": run.name,
            "config": dict(facts),
            "settings": settings,
            **from_slurm(os.environ),
        }
        server = wandb.setup().settings.base_url  # as its variables and files say
        if mode == "online" and not answers(server):
            mode = "offline"
            self.note = f"is out of reach: {server} does not answer. This run is kept on disk. {remedy(run)}"
        try:
            accelerator.init_trackers(project, init_kwargs={"wandb": {**options, "mode": mode}})
            self._run: Any = accelerator.get_tracker("wandb", unwrap=True)
        finally:
            accelerator.trackers.clear()  # finish() ends the run; accelerate would once more, and raise
        self._run.define_metric("*", step_metric=AXIS)

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def show(self, name: str, path: Path, caption: str, images: int) -> None:
        import wandb

        self._run.log({f"samples/{name}": wandb.Image(str(path), caption=caption), AXIS: images})

    def keep(self, folder: Path, facts: Mapping[str, Any]) -> None:
        if folder.is_dir():  # else pruned: the board was that far behind
            self._store("checkpoint", "checkpoint", folder, facts, ["latest", folder.name])

    def offer(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._store("generator", "model", folder, facts, ["latest"])

    def _store(self, what: str, type: str, folder: Path, facts: Mapping[str, Any], aliases: list[str]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{what}-{self._run.id}", type=type, metadata=dict(facts))
        artifact.add_dir(str(folder))  # copies: the folder may be gone before it is sent
        self._run.log_artifact(artifact, aliases=aliases)

    def abandon(self) -> None:
        import wandb

        wandb.teardown(exit_code=1)  # it also takes back a hook of wandb's, which raises once its process is gone

    def finish(self, *, failed: bool) -> None:
        try:
            self._run.finish(exit_code=int(failed))
        except TimeoutError:
            raise TimeoutError(f"not everything was taken in {END:.0f} s. {remedy(self._folder)}") from None
