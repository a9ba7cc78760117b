from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.loading.dataset import ShardDataset
from shards.loading.labels import read_labels
from shards.sources.mnist import Mnist
from tests.support.launching import SMALL, run
from tests.support.make import key, make_shards, numbers
from trainer.cli import conclude
from trainer.folder.load_run import load_run
from trainer.gan.dcgan import DcganDiscriminator
from trainer.gan.networks import initialise
from trainer.gan.state import create_state
from trainer.represent import labelled as labelled_samples
from trainer.represent.__main__ import REPORT, Represent, untrained
from trainer.represent.__main__ import run as represent
from trainer.represent.features import features, pixels
from trainer.represent.labelled import read_samples
from trainer.represent.svm import score


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    make_shards(folder)
    return folder


@pytest.fixture(scope="module")
def trained(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    done = run(
        "faces", "--data.shards", str(labelled), "--out", str(out), "--steps", "2", "--data.workers", "0", *SMALL
    )
    assert done.returncode == 0, done.stderr
    return out


def test_labels_stand_beside_their_images(labelled: Path) -> None:
    """Over the border of an epoch too; ``make_shards`` labels each sample with its number's last digit."""
    dataset = ShardDataset(labelled, seed=3, lanes=7)
    expected = [number % 10 for number in numbers(dataset.__getitems__(range(30, 80)).images)]
    found = read_labels(dataset.reader, 30, 50)
    assert found.dtype == np.int64 and found.tolist() == expected


@pytest.mark.parametrize("label", [b"a", b"", b"-1", b"1.5", b"1" * 20])
def test_a_label_that_is_no_number_is_named(tmp_path: Path, label: bytes) -> None:
    make_shards(tmp_path)
    tar = tmp_path / "shard-00001.tar"
    data = bytearray(tar.read_bytes())
    at = data.index(f"{key(23)}.cls".encode()) + 512
    data[at : at + 512] = label.ljust(512, b" ")
    data[at - 512 + 124 : at - 512 + 136] = b"%011o\0" % max(1, len(label))
    header = data[at - 512 : at]
    header[148:156] = b" " * 8
    data[at - 512 + 148 : at - 512 + 156] = b"%06o\0 " % sum(header)
    tar.write_bytes(data)
    with pytest.raises(InputError, match=rf"shard-00001\.tar.*{key(23)}\.cls.*not a number"):
        read_labels(ShardDataset(tmp_path).reader, 0, 50)


def test_features_are_the_pooled_layers() -> None:
    network = DcganDiscriminator(32, 1, 4)
    initialise(network, 0)
    network.eval()
    images = torch.randint(256, (300, 32, 32, 1), dtype=torch.uint8)
    found = features(network, images)
    assert [(*layer.shape, layer.dtype) for layer in found] == [(300, 16 * n, np.float32) for n in (4, 8, 16)]
    first = torch.nn.functional.leaky_relu(network.blocks[0][0](images[299:].permute(0, 3, 1, 2) / 127.5 - 1), 0.2)
    assert np.allclose(found[0][299, :16], first[0, 0].reshape(4, 4, 4, 4).amax((1, 3)).flatten().detach(), atol=1e-6)
    assert np.allclose(found[2][299].reshape(16, 4, 4), last_layer(network, images[299:]), atol=1e-6)
    (flat,) = pixels(images)
    assert flat.shape == (300, 1024) and flat.min() == -1 and flat.max() == 1


def last_layer(network: DcganDiscriminator, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network.blocks[:-1](images.permute(0, 3, 1, 2) / 127.5 - 1)[0].numpy()


def test_a_score_is_of_the_test_part_and_does_not_depend_on_the_scale() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(4, 30))
    labels, expected = random.integers(4, size=400), random.integers(4, size=300)
    train = centres[labels] + random.normal(size=(400, 30))
    test = centres[expected] + random.normal(size=(300, 30))
    found = score([train], labels, [test], expected, 0)
    assert found.accuracy > 0.97 and found.values == 30
    assert score([1e3 * train + 7], labels, [1e3 * test + 7], expected, 0) == found
    assert score([train], random.permutation(labels), [test], expected, 0).accuracy < 0.5
    rare = (np.arange(400) == 0).astype(int)  # all of its class are among those that choose C
    assert score([train], rare, [test], 0 * expected, 0).accuracy > 0.9
    assert score([0 * train], labels, [0 * test], expected, 0).accuracy < 0.5
    noise = [1e4 * random.normal(size=(n, 30)) for n in (400, 300)]  # a layer that is long has no more say for it
    assert score([train, noise[0]], labels, [test, noise[1]], expected, 0).accuracy > 0.9


def test_a_table_and_a_report(
    labelled: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Represent(trained, str(labelled), train=30, test=20)
    represent(asked)
    report, said = json.loads((trained / REPORT).read_text()), capsys.readouterr().out
    assert (report["train"], report["test"], report["checkpoint"]) == (30, 20, "step-000000002")
    assert list(report["representations"]) == ["raw pixels", "untrained discriminator", "discriminator"]
    for name, found in report["representations"].items():
        assert name in said and f"{found['accuracy']:.2%}" in said
    assert "--force" in fails(capsys, trained, str(labelled), None, 30, 20)
    represent(replace(asked, out=tmp_path / "new" / "again.json"))
    assert capsys.readouterr().out == said
    assert json.loads((tmp_path / "new" / "again.json").read_text()) == report
    represent(replace(asked, seed=1, force=True))
    assert json.loads((trained / REPORT).read_text())["seed"] == 1


def test_samples_are_not_tested_on_that_were_trained_on(labelled: Path, tmp_path: Path) -> None:
    """Of one data set, wherever it lies, none; of another that shares images, with a warning."""
    (train, _), (test, _) = read_samples(str(labelled), None, (30, 20), 0, (1, 32))
    assert {*numbers(train)}.isdisjoint(numbers(test))
    shutil.copytree(labelled, tmp_path / "copy")
    with pytest.raises(InputError, match="Leave --test-shards away"):
        read_samples(str(labelled), str(tmp_path / "copy"), (30, 20), 0, (1, 32))
    make_shards(tmp_path / "part", samples=20)
    with pytest.warns(UserWarning, match="20 of 20 test images are training images too"):
        read_samples(str(labelled), str(tmp_path / "part"), (50, 20), 0, (1, 32))


def test_one_class_cannot_be_told_apart(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_samples, "read_labels", lambda _reader, _start, count: np.full(count, 7))
    with pytest.raises(InputError, match="are of class 7"):
        read_samples(str(labelled), None, (30, 20), 0, (1, 32))


def test_the_untrained_one_is_what_the_run_began_with(trained: Path) -> None:
    loaded = load_run(trained)
    began = create_state(loaded.config, 32, 1, torch.device("cpu")).discriminator.state_dict()
    assert all(torch.equal(value, began[name]) for name, value in untrained(loaded).state_dict().items())


def fails(capsys: pytest.CaptureFixture[str], *wanted: object) -> str:
    """The one line that is said."""
    assert conclude(lambda: represent(Represent(*wanted))) == 2  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def fails_to_parse(capsys: pytest.CaptureFixture[str], **flags: int) -> str:
    assert conclude(lambda: represent(Represent(Path("x"), "y", **flags))) == 2  # type: ignore[arg-type]
    return capsys.readouterr().err


def test_bad_input_is_one_line(
    labelled: Path, trained: Path, faces32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / REPORT).unlink(missing_ok=True)
    assert "no such folder" in fails(capsys, tmp_path / "nowhere", str(labelled))
    assert "not a run" in fails(capsys, tmp_path, str(labelled))
    assert "No shards" in fails(capsys, trained, str(tmp_path))
    assert "32x32x3" in fails(capsys, trained, str(faces32))
    make_shards(tmp_path / "large", size=64)
    assert "64x64x1" in fails(capsys, trained, str(tmp_path / "large"))
    said = fails(capsys, trained, str(labelled), None, 40, 20)
    assert "50 samples" in said and "60 are needed" in said
    make_shards(tmp_path / "other", samples=45)
    assert "--test-shards" in fails(capsys, trained, str(labelled), str(tmp_path / "other"), 40, 46)
    assert "less than 2**32" in fails_to_parse(capsys, seed=2**32)
    assert not (trained / REPORT).exists()


def test_unlabelled_shards_are_told(faces32: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("faces", "--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "1", *SMALL)
    assert done.returncode == 0, done.stderr
    said = fails(capsys, tmp_path / "run", str(faces32), None, 40, 20)
    assert ".cls is missing" in said and "Labelled shards hold" in said


def test_too_few_samples_are_refused_at_once() -> None:
    for wanted in ("--train", "--test"):
        words = [sys.executable, "-m", "trainer.represent", "x", "--shards", "y", wanted, "0"]
        done = run(words=words)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {wanted} is 0")


def test_help_teaches_without_torch() -> None:
    code = "import sys, trainer.represent; sys.exit(bool({'torch', 'sklearn'} & sys.modules.keys()))"
    assert run(words=[sys.executable, "-c", code]).returncode == 0
    said = run(words=[sys.executable, "-m", "trainer.represent", "--help"]).stdout
    assert "RUN" in said and "Example: python -m trainer.represent" in said and "1511.06434" in said


@pytest.mark.timeout(600)
def test_on_digits_it_beats_raw_pixels_and_an_untrained_one(real_data: Path, tmp_path: Path) -> None:
    """In 400 steps of tiny networks at five times the usual rate: seed 0 gives 88.5, 92.9 and 94.1 %.

    That an epoch of the preset gives 97 % no test can wait for: ``python -m trainer.represent runs/mnist --shards
    data/mnist32 --test-shards data/mnist32-test --test 10000`` said 97.56 and 97.72 % with seeds 0 and 1, and of the
    untrained one 97.24 and 96.67 %.
    """
    build(Mnist(real_data / "mnist"), tmp_path / "digits", Options(size=32, limit=8000))
    done = run("mnist", "--data.shards", str(tmp_path / "digits"), "--out", str(tmp_path / "run"), "--steps", "400",
               "--batch-size", "64", "--model.features-g", "8", "--model.features-d", "8", "--data.workers", "0",
               "--optim.lr-g", "1e-3", "--optim.lr-d", "1e-3", "--samples.every", "0",
               "--tracking.mode", "disabled")  # fmt: skip
    assert done.returncode == 0, done.stderr
    represent(Represent(tmp_path / "run", str(tmp_path / "digits"), train=1500, test=3000))
    found = json.loads((tmp_path / "run" / REPORT).read_text())["representations"]
    raw, at_birth, learnt = (found[name]["accuracy"] for name in found)
    assert learnt > at_birth + 0.005 and at_birth > raw + 0.02 and learnt > 0.91, found
