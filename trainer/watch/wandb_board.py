"""Weights & Biases, through accelerate: one W&B run over all restarts, online or kept in the run folder."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from shards.common.files import atomic_write
from shards.common.urls import redact
from trainer.folder.checkpoint import CHECKSUMS
from trainer.watch.board import AXIS, NotDone
from trainer.watch.wandb_process import answers, let_go

START, END = 25.0, 40.0
"""Seconds that a server has to begin a run, and to take the rest in the end."""


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


@contextmanager
def _gone(path: Path) -> Iterator[None]:
    """What fails in the block because ``path`` is gone, or is just going, costs no more than that."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:  # ValueError: wandb's, of no folder
        raise NotDone(f"did not get {path.name}: it was removed before its turn came.") from error


class WandbBoard:
    """A :class:`trainer.watch.board.Board`."""

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

        def begin(mode: str) -> Any:
            try:
                accelerator.init_trackers(project, init_kwargs={"wandb": {**options, "mode": mode}})
                return accelerator.get_tracker("wandb", unwrap=True)
            finally:
                accelerator.trackers.clear()  # finish() ends the run; accelerate would once more, and raise

        try:
            self._run = self._begin_online(begin) if mode == "online" else begin(mode)
            self._run.define_metric("*", step_metric=AXIS)
        except BaseException:
            let_go()
            raise

    def _begin_online(self, begin: Callable[[str], Any]) -> Any:
        """Offline, with a note, where the server does not take the run: nothing would be kept otherwise."""
        import wandb

        server = wandb.setup().settings.base_url  # as its variables and files say
        why = "does not answer"
        if answers(server):
            try:
                return begin("online")
            except Exception as error:
                why = f"does not take the run ({redact(' '.join(str(error).split()))})"
                let_go()
        self.note = f"is out of reach: {redact(server)} {why}. This run is kept on disk. {remedy(self._folder)}"
        return begin("offline")

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def show(self, name: str, path: Path, caption: str, images: int) -> None:
        import wandb

        with _gone(path):
            self._run.log({f"samples/{name}": wandb.Image(str(path), caption=caption), AXIS: images})

    def keep(self, folder: Path, facts: Mapping[str, Any]) -> None:
        with _gone(folder):
            names = {CHECKSUMS, *json.loads((folder / CHECKSUMS).read_text())}
            self._store("checkpoint", "checkpoint", folder, facts, ["latest", folder.name], names)

    def offer(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._store("generator", "model", folder, facts, ["latest"])

    def _store(
        self,
        what: str,
        type: str,
        folder: Path,
        facts: Mapping[str, Any],
        aliases: list[str],
        names: Collection[str] = (),
    ) -> None:
        """Raises ``FileNotFoundError`` where one of ``names`` was not there to be stored."""
        import wandb

        artifact = wandb.Artifact(f"{what}-{self._run.id}", type=type, metadata=dict(facts))
        artifact.add_dir(str(folder))  # copies: the folder may be gone before it is sent
        if not set(names) <= artifact.manifest.entries.keys():
            raise FileNotFoundError(folder)
        self._run.log_artifact(artifact, aliases=aliases)

    def abandon(self) -> None:
        let_go()

    def finish(self, *, failed: bool) -> None:
        try:
            self._run.finish(exit_code=int(failed))
        except TimeoutError:
            raise TimeoutError(f"not everything was taken in {END:.0f} s. {remedy(self._folder)}") from None
