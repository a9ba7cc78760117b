from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shards.common.errors import InputError
from shards.format.manifest import Manifest, Shard
from trainer.config import Config, Data, Kind, Model, flatten
from trainer.explore.gallery import origin
from trainer.export.folder import describe
from trainer.folder import checkpoint
from trainer.folder.journal import Journal
from trainer.folder.load_run import DamagedCheckpoint, load_run
from trainer.folder.run_folder import RunFolder
from trainer.gan.coarse import VERSION
from trainer.gan.factory import describe_networks
from trainer.gan.state import State, create_state

MODEL = Model(z_dim=8, features_g=4, features_d=2)
OTHER = replace(MODEL, norm_d="none", coarse_d=True, upsampling="nearest")
FACTS = {"step": 3, "position": 24, "data": "made", "manifest": "abc"}


def make_run(folder: Path, size: int = 32, classes: Sequence[str] = (), **fields: Any) -> tuple[Config, State]:
    """A run folder with one checkpoint, its networks untrained and its average not its generator."""
    config = Config(**{"model": MODEL, "out": folder, **fields})
    manifest = Manifest("made", "png", size, 1, (Shard("none", 1, 1, ""),), "")
    state = create_state(config, manifest.size, manifest.channels, torch.device("cpu"), classes=len(classes))
    with torch.no_grad():
        for weight in state.average.parameters():
            weight += 1
    run = RunFolder(folder)
    folder.mkdir()
    run.write_config(config)
    networks = {} if config.model == MODEL else {"networks": describe_networks(config.model, size, 1, classes)}
    checkpoint.save(run.checkpoints, 3, state.tensors(), FACTS | networks, keep=3)
    return config, state


@pytest.mark.parametrize(("size", "model"), [(32, MODEL), (64, MODEL), (128, MODEL), (256, MODEL), (32, OTHER)])
def test_the_networks_come_back_ready(tmp_path: Path, size: int, model: Model) -> None:
    config, state = make_run(tmp_path / "run", size, data=Data(cache=Path("c")), model=model)
    loaded = load_run(tmp_path / "run")
    assert loaded.config == config
    assert (loaded.step, loaded.position, loaded.shape) == (3, 24, (1, size))
    assert loaded.checkpoint == tmp_path / "run" / "checkpoints" / "step-000000003"
    for network, original in ((loaded.generator, state.average), (loaded.discriminator, state.discriminator)):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())
        weights, expected = network.state_dict(), original.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert loaded.generator(torch.zeros(2, 8)).shape == (2, 1, size, size)


def test_a_checkpoint_may_go_once_it_is_loaded(tmp_path: Path) -> None:
    """As it does when the run goes on: a picture or an export under way is not lost."""
    make_run(tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    digest = checkpoint.digest(loaded.checkpoint)
    shutil.rmtree(loaded.checkpoint)
    assert origin(tmp_path / "run", loaded)["checkpoint_sha256"] == digest
    assert describe(loaded)["training"]["data_digest"] == "abc"


def test_a_checkpoint_is_replaced_where_the_training_went_back(tmp_path: Path) -> None:
    _, state = make_run(tmp_path / "run")
    folder, loaded = RunFolder(tmp_path / "run"), load_run(tmp_path / "run")
    checkpoint.save(folder.checkpoints, 4, state.tensors(), FACTS, keep=2)
    assert not loaded.is_replaced()
    checkpoint.save(folder.checkpoints, 3, state.tensors(), FACTS | {"rollbacks": 1}, keep=2)
    assert loaded.is_replaced()
    checkpoint.remove(loaded.checkpoint)
    assert not loaded.is_replaced()  # newer ones exist
    for step, replaced in ((3, False), (2, True)):
        with closing(Journal(folder.rollbacks)) as journal:
            journal.append({"step": step, "rollbacks": step})
        assert loaded.is_replaced() == replaced
    assert not replace(loaded, metadata={"rollbacks": 3}).is_replaced()  # it was written after them


@pytest.mark.parametrize(("field", "value"), [("kind", "unet"), ("norm_d", "spectral"), ("upsampling", "bilinear")])
def test_networks_of_another_version_are_named(tmp_path: Path, field: str, value: str) -> None:
    """Its checkpoint is whole, so no other one is tried."""
    config, state = make_run(tmp_path / "run")
    run, model = RunFolder(tmp_path / "run"), replace(MODEL, **{field: value})
    run.write_config(replace(config, model=model))
    facts = FACTS | {"networks": describe_networks(model, 32, 1)}
    checkpoint.save(run.checkpoints, 3, state.tensors(), facts, keep=3)
    with pytest.raises(InputError, match=f"does not make: {field} '{value}'; it must be one of .*Use the version") as e:
        load_run(tmp_path / "run")
    assert not isinstance(e.value, DamagedCheckpoint)


def test_a_run_without_average_gives_its_generator_and_doubles_stay_doubles(tmp_path: Path) -> None:
    _, state = make_run(tmp_path / "run", ema_images=0, dtype="float64")
    weights = load_run(tmp_path / "run").generator.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in state.generator.state_dict().items())
    assert weights["blocks.0.0.weight"].dtype == torch.float64


def test_a_setting_that_the_run_did_not_know_keeps_its_default(tmp_path: Path) -> None:
    config, _ = make_run(tmp_path / "run")
    flat = flatten(config)
    del flat["tracking.project"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({**flat, "of.the.future": 1}))
    assert load_run(tmp_path / "run").config == config


def refused(run: Path, given: Path | None, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        load_run(run, given)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", None, "none: no such folder")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", None, "is a file. Name the folder of a run")
    refused(tmp_path, None, "not a run folder", "config.yaml")
    for text in ("", "- 1", "a: [", "batch_size: x", "model.z_dim: -1"):
        (tmp_path / "config.yaml").write_text(text)
        refused(tmp_path, None)


def test_a_run_without_a_whole_checkpoint_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-000000003" / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="damaged"):
        refused(tmp_path / "run", None, "damaged")
    refused(tmp_path / "run", folder / "step-000000003", "is damaged")
    (folder / "step-000000003" / "checksums.json").unlink()
    refused(tmp_path / "run", Path("step-000000003"), "is damaged", "step-000000003/checksums.json is missing")
    shutil.rmtree(folder)
    refused(tmp_path / "run", None, "no checkpoint yet")
    refused(tmp_path / "run", folder / "step-000000009", "is no checkpoint")


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    config = Config(model=Model(z_dim=8, features_g=8, features_d=2), out=tmp_path / "other")
    (tmp_path / "other").mkdir()
    RunFolder(tmp_path / "other").write_config(config)
    theirs = tmp_path / "run" / "checkpoints" / "step-000000003"
    refused(tmp_path / "other", theirs, "is no checkpoint of", "which has none")
    shutil.copytree(theirs, tmp_path / "other" / "checkpoints" / theirs.name)
    refused(tmp_path / "other", Path(theirs.name), "does not hold the networks")
    assert load_run(tmp_path / "run", Path(theirs.name)).checkpoint == theirs


def test_the_classes_come_back(tmp_path: Path) -> None:
    model = replace(OTHER, conditional=True)
    config, _ = make_run(tmp_path / "run", classes=("cat", "dog"), model=model)
    loaded = load_run(tmp_path / "run")
    assert loaded.classes == ("cat", "dog") and loaded.generator.classes == loaded.discriminator.classes == 2
    (tmp_path / "run" / "config.yaml").unlink()
    RunFolder(tmp_path / "run").write_config(replace(config, model=OTHER))
    refused(tmp_path / "run", None, "does not hold the networks")


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    checkpoint.save(folder, 1, {"model": {"weight": torch.zeros(3)}}, {"epoch": 1}, keep=2)
    refused(tmp_path / "run", folder / "step-000000001", "does not hold the networks")
    (folder / "empty").mkdir()
    refused(tmp_path / "run", folder / "empty", "is damaged", "empty/checksums.json is missing")


def test_a_checkpoint_records_what_its_version_knew_of_the_networks(tmp_path: Path) -> None:
    config, state = make_run(tmp_path / "run")
    whole = describe_networks(config.model, 32, 1)
    older = {name: value for name, value in whole.items() if name not in ("kind", "norm_d", "coarse_d", "upsampling")}
    others = [
        {**whole, **other}
        for other in (
            {"features_g": 8},
            {"norm_d": "none"},
            {"coarse_d": True, "coarse_version": VERSION},
            {"upsampling": "nearest"},
        )
    ]
    for networks, fits in ((whole, True), (older, True), *((other, False) for other in others)):
        metadata = {**FACTS, "networks": networks}
        checkpoint.save(tmp_path / "run" / "checkpoints", 4, state.tensors(), metadata, keep=3)
        if fits:
            assert load_run(tmp_path / "run").step == 3
        else:
            refused(tmp_path / "run", None, "does not hold the networks")


def test_what_an_older_version_could_not_record_was_the_default(tmp_path: Path) -> None:
    config, state = make_run(tmp_path / "run", model=OTHER)
    whole = describe_networks(config.model, 32, 1)
    older = {name: value for name, value in whole.items() if name not in ("norm_d", "coarse_d", "upsampling")}
    for metadata in ({**FACTS, "networks": older}, FACTS):  # the last one is of version 0.1
        checkpoint.save(tmp_path / "run" / "checkpoints", 4, state.tensors(), metadata, keep=3)
        refused(tmp_path / "run", None, "does not hold the networks")


@pytest.mark.parametrize("kind", ["dcgan", "mlp"])
def test_a_coarse_part_of_an_older_version_is_left_out(tmp_path: Path, kind: Kind) -> None:
    """Nothing but a training needs it, and mlp never had one."""
    config, state = make_run(tmp_path / "run", model=replace(OTHER, kind=kind))
    older = {name: value for name, value in describe_networks(config.model, 32, 1).items() if name != "coarse_version"}
    tensors = state.tensors()
    if kind == "dcgan":
        tensors["discriminator"]["coarse.9.weight"] = torch.zeros(3)
    checkpoint.save(tmp_path / "run" / "checkpoints", 4, tensors, {**FACTS, "networks": older}, keep=3)
    loaded = load_run(tmp_path / "run", Path("step-000000004"))
    assert not any(name.startswith("coarse.") for name in loaded.discriminator.state_dict())
    for name, weight in loaded.discriminator.state_dict().items():
        assert torch.equal(weight, tensors["discriminator"][name])


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_never_executed_whatever_its_name(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    trap, path = pickle.dumps(Trap(tmp_path / "executed")), tmp_path / "run" / "checkpoints" / "step-000000003"
    (tmp_path / "model.pt").write_bytes(trap)
    refused(tmp_path / "run", tmp_path / "model.pt", "is a file", "never opened")
    (path / "average.safetensors").write_bytes(trap)
    sums = json.loads((path / checkpoint.CHECKSUMS).read_text())
    sums["average.safetensors"] = checkpoint._sha256(path / "average.safetensors")
    (path / checkpoint.CHECKSUMS).write_text(json.dumps(sums))
    refused(tmp_path / "run", path, "is damaged")
    assert not (tmp_path / "executed").exists()
