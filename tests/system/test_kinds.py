"""Every command works for every kind of network."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import onnx
import pytest
from PIL import Image

from tests.support import forks
from tests.support.forks import Python
from tests.support.launching import RECIPE, ROOT, SMALL, rows, status
from tests.support.make import make_shards
from tests.support.ranks import on_ranks, train_here
from trainer.folder.load_run import load_run
from trainer.gan.schedule import cosine

CONDITIONAL = ("--model.conditional", "true")
KINDS = {"mlp": (), "residual": CONDITIONAL, "dcgan": (*CONDITIONAL, "--model.norm-d", "none")}
"""Flags of each kind; its recipe needs a discriminator without BatchNorm. Most other tests train ``dcgan`` too."""
KILLED = """
import os, signal
from trainer import run
from trainer.train.session import Session
advance = Session.advance
def advance_or_die(self, *batches, **options):
    return advance(self, *batches, **options) if self.state.step < 5 else os.kill(os.getpid(), signal.SIGKILL)
Session.advance = advance_or_die
run.main()
"""
"""A trainer that is killed in its sixth step."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def python() -> Python:
    return forks.python()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "shards"
    make_shards(folder, samples=60)
    return folder


@pytest.fixture(scope="module")
def flags(kind: str, shards: Path) -> list[str]:
    recipe = (*RECIPE, "--schedule.images", "60")  # which the others train without
    own = ("--model.kind", kind, "--dtype", "float64", "--data.workers", "0", "--data.shards", str(shards),
           *KINDS[kind])  # fmt: skip
    return [*SMALL, *recipe, *own]


@pytest.fixture(scope="module")
def trained(python: Python, flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kinds") / "run"
    done = python("trainer/run.py", *flags, "--out", str(out), "--steps", "6", "--checkpoint.every", "2", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return out


def test_the_metrics_say_what_the_recipe_does(trained: Path) -> None:
    """Reported are every second step and the last; penalties come in the first step and each third after it."""
    found = rows(trained / "metrics.jsonl")
    assert [row["step"] for row in found] == [2, 4, 6]
    assert found[0]["penalty/r1"] != found[1]["penalty/r1"] == found[2]["penalty/r1"]
    for name, start, end in (("lr_g", 2e-3, 1e-5), ("r2", 1.0, 0.1), ("ema_images", 20_000, 30)):
        wanted = [cosine(start, end, row["images"], 60) for row in found]
        assert [row[f"schedule/{name}"] for row in found] == wanted


@pytest.mark.parametrize("kind", ["mlp", "residual"], indirect=True)
def test_killed_it_resumes_to_the_bit(
    python: Python, kind: str, trained: Path, flags: list[str], tmp_path: Path
) -> None:
    wanted = [*flags, "--out", str(tmp_path), "--steps", "6", "--checkpoint.every", "2"]
    assert python("-c", KILLED, *wanted, cwd=ROOT).returncode == -signal.SIGKILL
    assert status(tmp_path)["state"] == "running" and not (tmp_path / "checkpoints" / "step-000000006").exists()
    done = python("trainer/run.py", *wanted, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for part in ("generator", "average", "discriminator", "generator_optim", "discriminator_optim"):
        name = Path("checkpoints") / "step-000000006" / f"{part}.safetensors"
        assert (trained / name).read_bytes() == (tmp_path / name).read_bytes(), part
    refused = python("trainer/run.py", *flags, "--out", str(tmp_path), "--model.kind", "dcgan", cwd=ROOT)
    assert refused.returncode == 2 and f"model.kind: {kind} -> dcgan" in refused.stderr


@pytest.mark.parametrize("kind", ["residual"], indirect=True)
def test_two_ranks_agree_with_one(trained: Path, flags: list[str], tmp_path: Path) -> None:
    """Also with parts of a batch, whose number changes at a resume."""
    results = on_ranks(2, train_here, [*flags, "--out", str(tmp_path), "--steps", "4", "--accumulate", "4"])
    assert [code for code, _ in results] == [0, 0], results
    results = on_ranks(2, train_here, [*flags, "--out", str(tmp_path), "--steps", "6", "--accumulate", "2"])
    assert [code for code, _ in results] == [0, 0], results
    assert status(tmp_path)["state"] == "done"
    for one, two in zip(rows(trained / "metrics.jsonl"), rows(tmp_path / "metrics.jsonl"), strict=True):
        for name in {"loss/d", "loss/g", "score/real", "score/fake_after", "penalty/r1", "penalty/r2"} & two.keys():
            assert two[name] == pytest.approx(one[name], abs=1e-10)


@pytest.mark.parametrize("kind", ["dcgan"], indirect=True)
def test_batch_norm_of_parts_does_not_depend_on_ranks(flags: list[str], tmp_path: Path) -> None:
    """Whose number changes at a resume."""
    one, two = ([*flags, "--accumulate", "4", "--out", str(tmp_path / name)] for name in ("one", "two"))
    assert train_here([*one, "--steps", "4"])[0] == 0
    assert [code for code, _ in on_ranks(2, train_here, [*two, "--steps", "2"])] == [0, 0]
    assert train_here([*two, "--steps", "4"])[0] == 0
    found = [rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    assert [row["step"] for row in found[1]] == [2, 4]
    for mine, other in zip(*found, strict=True):
        for name in ("loss/d", "loss/g", "score/real", "score/fake_after"):
            assert other[name] == pytest.approx(mine[name], abs=1e-10)


def test_every_command_takes_it(python: Python, kind: str, trained: Path, shards: Path, tmp_path: Path) -> None:
    def succeed(*words: object) -> str:
        done = python("-m", *map(str, words), cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    recorded = load_run(trained)
    assert recorded.config.model.kind == kind
    classes = recorded.classes
    one = ("--class", "3") if classes else ()
    terms = ("--plus", "0,1", "--minus", "2", *one)
    for what in (("grid",), ("walk", "--points", 2, "--frames", 2), ("arithmetic", *terms)):
        succeed("trainer.explore", trained, *what, "--out", tmp_path / f"{what[0]}.png")
        with Image.open(tmp_path / f"{what[0]}.png") as picture:
            assert picture.width > 96
    succeed("trainer.explore", trained, "images", *one, "--count", 3, "--out", tmp_path / "images")
    assert len([*(tmp_path / "images").iterdir()]) == 3
    few = ("--count", 9, "--k", 2)
    succeed("trainer.explore", trained, "nearest", *few, "--out", tmp_path / "nearest.png")
    assert len(json.loads((tmp_path / "nearest.json").read_text())["neighbours"]) == 8
    succeed("trainer.report", trained, "--out", tmp_path / "page.html")
    assert kind in (tmp_path / "page.html").read_text()
    succeed("trainer.export", trained, tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["kind"] == kind
    assert f"# {recorded.generator.title} generator" in card
    code = (
        "import torch; from trainer.hub import Generator; from trainer.folder.load_run import load_run; import pathlib;"
        f"generator = Generator.from_pretrained('exported'); run = load_run(pathlib.Path({str(trained)!r}));"
        "z = (torch.randn(3, generator.z_dim), *([torch.tensor([0, 9, 3])] if generator.class_names else []));"
        "assert torch.equal(generator(*z), run.generator.float()(*z)) and generator.class_names == run.classes"
    )
    loaded = python("-c", code, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    succeed("trainer.export", trained, tmp_path / "model.onnx", "--format", "onnx")
    inputs = [entry.name for entry in onnx.load(tmp_path / "model.onnx").graph.input]
    assert inputs == ["latents", *(["labels"] if classes else [])]
    succeed("trainer.represent", trained, "--shards", shards, "--train", 40, "--test", 20, "--out", tmp_path / "report")
    assert {"raw pixels", "discriminator"} <= json.loads((tmp_path / "report").read_text())["representations"].keys()
    words = (trained, "--samples", 100, "--features", "labels", "--json")
    scores = json.loads(succeed("trainer.evaluate", *words))["scores"]
    assert ("agreement" in scores, "agreement-9" in scores) == (bool(classes), bool(classes))
    for file in ("exported/config.json", "exported/README.md", "grid.json", "report"):
        normalised = kind == "dcgan" and file != "report"  # which is of the discriminator
        assert ("batchnorm" in (tmp_path / file).read_text().lower().replace("_", "")) == normalised, file
    assert json.loads(succeed("trainer.status", trained, "--json"))["state"] == "done"


def test_residual_networks_make_images_of_128_pixels(python: Python, tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "run"
    make_shards(shards, samples=20, size=128, channels=3)
    own = ("--model.kind", "residual", *CONDITIONAL, "--schedule.images", "60", "--data.workers", "0", "--steps", "2")
    words = (*SMALL, *RECIPE, *own, "--data.shards", str(shards), "--out", str(out), "--samples.count", "20")
    done = python("trainer/run.py", *words, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    drawn = python("-m", "trainer.explore", str(out), "grid", "--count", "10", cwd=ROOT)
    assert drawn.returncode == 0, drawn.stderr
    for sheet in (out / "samples" / "step-000000002.png", out / "explore" / "grid.png"):
        with Image.open(sheet) as picture:
            assert picture.height > 10 * 128  # a row for each class


def test_images_of_256_pixels_are_trained_drawn_and_scored(python: Python, tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "run"
    make_shards(shards, samples=40, size=256, channels=3)
    few = (*SMALL, "--model.features-g", "1", "--model.features-d", "1", "--data.workers", "0", "--steps", "2")
    assert python("trainer/run.py", *few, "--data.shards", str(shards), "--out", str(out), cwd=ROOT).returncode == 0

    def succeed(*words: object) -> str:
        done = python("-m", *map(str, words), cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    succeed("trainer.explore", out, "walk", "--points", 2, "--frames", 1)
    scores = json.loads(succeed("trainer.evaluate", out, "--samples", 100, "--features", "pixels", "--json"))["scores"]
    assert [name for name in scores if name.startswith("swd-")] == [f"swd-{2**level}" for level in (8, 7, 6, 5, 4)]
    succeed("trainer.export", out, tmp_path / "model.onnx", "--format", "onnx")
    succeed("trainer.report", out)
