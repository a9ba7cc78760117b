"""A run folder of version 0.1, which recorded nothing about its networks, works with every command of today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.launching import ROOT, rows, run, status
from trainer.folder import checkpoint
from trainer.folder.load_run import load_run
from trainer.hub import Generator
from trainer.samples import fixed_latents, generate

VERSION_0_1 = ROOT / "tests" / "fixtures" / "version-0.1"
FLAGS = ("--data.shards", str(VERSION_0_1 / "shards"), "--data.workers", "0", "--batch-size", "4",
         "--model.features-g", "1", "--model.features-d", "1", "--model.z-dim", "4", "--samples.count", "4",
         "--log-every", "1", "--tracking.mode", "disabled", "--evaluate.samples", "0", "--threads", "1")  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.copytree(VERSION_0_1 / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def flags(old: Path) -> list[str]:
    """Those of the same command today: the preset has changed, and the error says how to continue the run."""
    refused = run(*FLAGS, "--out", str(old), "--steps", "5")
    assert refused.returncode == 2 and "loss: non-saturating -> relativistic" in refused.stderr
    return [*FLAGS, "--out", str(old), *refused.stderr.rpartition("the old values to continue that one: ")[2].split()]


def test_its_networks_load(old: Path) -> None:
    loaded = load_run(old)
    assert (loaded.config.model.kind, loaded.step, loaded.position, loaded.shape) == ("dcgan", 3, 12, (1, 32))
    assert "networks" not in json.loads((loaded.checkpoint / "state.json").read_text())


def test_its_export_loads(old: Path) -> None:
    exported, generator = Generator.from_pretrained(VERSION_0_1 / "exported"), load_run(old).generator
    # The images of so short a training are constant, so the weights are compared too.
    torch.testing.assert_close(exported.state_dict(), generator.state_dict(), rtol=0, atol=0)
    noise = fixed_latents(0, 3, 4)
    assert torch.equal(generate(exported, noise), generate(generator, noise)) and not exported.training


def test_it_goes_on_and_then_records_its_networks(old: Path, flags: list[str]) -> None:
    other = run(*flags, "--steps", "5", "--model.features-g", "2")
    assert other.returncode == 2 and "model.features_g: 1 -> 2" in other.stderr
    done = run(*flags, "--steps", "5")
    assert done.returncode == 0, done.stderr
    assert status(old) == {"state": "done", "step": 5, "position": 20}
    assert [row["step"] for row in rows(old / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    recorded = json.loads((old / "checkpoints" / "step-000000005" / "state.json").read_text())["networks"]
    assert recorded == {"kind": "dcgan", "z_dim": 4, "features_g": 1, "features_d": 1, "norm_d": "batch",
                        "coarse_d": False, "coarse_version": 0, "upsampling": "transposed", "size": 32, "channels": 1,
                        "classes": []}  # fmt: skip
    assert load_run(old).shape == (1, 32)


def test_networks_are_compared_before_anything_is_written(old: Path, flags: list[str]) -> None:
    assert run(*flags, "--steps", "5").returncode == 0
    (old / "config.yaml").unlink()
    for more in ((), ("--dry-run",)):
        other = run(*flags, "--steps", "6", "--model.kind", "mlp", *more)
        assert other.returncode == 2 and "step-000000005 holds other networks: {'kind': 'dcgan'" in other.stderr
    assert not (old / "config.yaml").exists()
    assert run(*flags, "--steps", "6").returncode == 0


def test_a_coarse_part_of_an_older_version_still_draws_but_is_not_trained(tmp_path: Path) -> None:
    words = [*FLAGS, "--model.coarse-d", "true", "--out", str(tmp_path / "run"), "--steps"]
    done = run(*words, "1")
    assert done.returncode == 0, done.stderr
    tensors, metadata = checkpoint.load(tmp_path / "run" / "checkpoints" / "step-000000001")
    del metadata["networks"]["coarse_version"]
    checkpoint.save(tmp_path / "run" / "checkpoints", 2, tensors, metadata, keep=3)
    resumed = run(*words, "3")
    assert resumed.returncode == 2 and "(--model.coarse-d) that this version does not train." in resumed.stderr
    assert load_run(tmp_path / "run").checkpoint.name == "step-000000002"
