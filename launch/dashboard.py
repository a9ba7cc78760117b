"""Creates a W&B dashboard for all runs of a project: ``python launch/dashboard.py --project shardgan --entity me``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from shards.common.command import conclude, read_words
from shards.common.errors import InputError
from shards.common.files import atomic_write

AXIS = "images"

SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "Losses": {"D": ("loss/d",), "G": ("loss/g",)},
    "Scores": {
        "D(x)": ("score/real",),
        "D(G(z)), before and after D's step": ("score/fake_before", "score/fake_after"),
    },
    "Evaluation": {
        "kernel distance": ("evaluation/kd-lite0",),
        "sliced Wasserstein distance": ("evaluation/swd",),
        "similarity of pairs: generated, real": ("evaluation/ms-ssim", "evaluation/ms-ssim-real"),
        "precision, recall": ("evaluation/precision-lite0", "evaluation/recall-lite0"),
    },
    "Gradient penalties": {"R1, R2": ("penalty/r1", "penalty/r2")},
    "Gradient norms": {"D": ("gradient/d",), "G": ("gradient/g",)},
    "Speed and data wait": {
        "images/s": ("speed/images_per_second",),
        "share of time spent waiting for data": ("data/wait",),
        "share of time held up by checkpoints, evaluations": ("speed/checkpoints", "speed/evaluation"),
        "bad samples replaced": ("data/replaced",),
    },
    "Memory": {"host, GiB": ("memory/host_gb",), "device, GiB": ("memory/device_gb",)},
    "fp16": {"scale": ("amp/scale",), "steps left out": ("amp/skipped_d", "amp/skipped_g")},
}
"""Metrics by section and panel. W&B adds sections for other metrics by itself."""

SHEETS = ("samples/fake", "samples/real")


@dataclass(frozen=True)
class Dashboard:
    """Save a project's workspace on W&B, or write it to a file. Needs the extra `dashboard`.

    Example: python launch/dashboard.py --entity me --project shardgan
    """

    entity: str = ""
    """User or team that owns the project; by default that of the API key."""
    project: str = "shardgan"
    """Name of the project, as in --tracking.project."""
    name: str = "shardgan"
    """Name of the saved view."""
    json: Path | None = None
    """Write the workspace to this file as JSON instead of saving it on W&B."""
    force: bool = False
    """Overwrite the file if it exists."""


def build(entity: str, project: str, name: str) -> Any:
    """Build the ``wandb_workspaces`` workspace: samples first, then charts over real images consumed."""
    import wandb_workspaces.reports.v2.interface as reports
    import wandb_workspaces.workspaces as workspaces

    sheets: list[Any] = [reports.MediaBrowser(title=sheet, media_keys=[sheet], num_columns=1) for sheet in SHEETS]
    sections = [workspaces.Section(name="Samples", panels=sheets, is_open=True)]
    for section, panels in SECTIONS.items():
        plots: list[Any] = [reports.LinePlot(title=title, x=AXIS, y=list(metrics)) for title, metrics in panels.items()]
        sections.append(workspaces.Section(name=section, panels=plots, is_open=True))
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=AXIS, group_by_prefix="first"),
        auto_generate_panels=True,
    )


def main(words: Sequence[str]) -> int:
    """Build and save the workspace. Errors of the user are one line on standard error and exit code 2."""
    return conclude(lambda: _run(tyro.cli(Dashboard, prog="python launch/dashboard.py", args=read_words(words))))


def _run(arguments: Dashboard) -> None:
    if arguments.json and arguments.json.exists() and not arguments.force:
        raise InputError(f"{arguments.json} exists already. Give another name, or --force to overwrite it.")
    try:
        print(_write(arguments, arguments.json) if arguments.json else _save(arguments))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "wandb_workspaces":
            raise
        raise InputError("This needs the extra `dashboard`: uv sync --extra dashboard.") from error


def _write(arguments: Dashboard, path: Path) -> Path:
    workspace = build(arguments.entity, arguments.project, arguments.name)
    spec = workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    with atomic_write(path) as file:
        file.write((json.dumps(spec, indent=1) + "\n").encode())
    return path


def _save(arguments: Dashboard) -> str:
    """Save the workspace on W&B; returns its URL."""
    import wandb

    try:
        api = wandb.Api(timeout=30)  # fails without a key, where the client of wandb_workspaces would prompt
        workspace = build(arguments.entity or api.default_entity or "", arguments.project, arguments.name)
        workspace.save()
    except (wandb.errors.Error, ValueError) as error:
        raise InputError(
            f"W&B did not accept the dashboard ({' '.join(str(error).split())}). `wandb login`, or --json FILE."
        ) from error
    return str(workspace.url)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
