"""Samples as files: the same ones whatever was there before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shards.common.errors import InputError
from trainer.config import Model
from trainer.explore import images
from trainer.explore.images import CHUNK, write_images
from trainer.gan.factory import create_generator
from trainer.gan.networks import Generator, initialise

RECORD: dict[str, Any] = {"checkpoint_sha256": "abc", "weights": "average", "seed": 3, "truncation": 1.0, "class": None}


@pytest.fixture(scope="module", params=[1, 3], ids="{} channels".format)
def generator(request: pytest.FixtureRequest) -> Generator:
    network = create_generator(Model(kind="mlp", z_dim=8, features_g=2), 32, request.param)
    initialise(network, 0)
    return network.eval()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_missing_images_are_added_as_if_all_were_written_at_once(generator: Generator, tmp_path: Path) -> None:
    count = 2 * CHUNK + 5
    assert write_images(generator, tmp_path / "once", count, RECORD) == (count, count)
    once = contents(tmp_path / "once")
    assert write_images(generator, tmp_path / "twice", 3, RECORD) == (3, 3)
    assert write_images(generator, tmp_path / "twice", CHUNK + 9, RECORD) == (CHUNK + 9, CHUNK + 6)
    (tmp_path / "twice" / f"{1:09d}.png").unlink()
    (tmp_path / "twice" / f"{70:09d}.png").write_bytes(b"")  # after a crash of the machine
    assert write_images(generator, tmp_path / "twice", count, RECORD) == (count, count - CHUNK - 9 + 2)
    assert contents(tmp_path / "twice") == once
    assert len(set(once.values())) > count // 2
    with Image.open(tmp_path / "once" / f"{0:09d}.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB" if generator(torch.zeros(1, 8)).shape[1] == 3 else "L")


def test_nothing_of_other_settings_or_origin_is_touched(generator: Generator, tmp_path: Path) -> None:
    write_images(generator, tmp_path / "mine", 2, RECORD)
    before = contents(tmp_path / "mine")
    for name, other in (("seed", 4), ("truncation", 0.5), ("checkpoint_sha256", "def")):
        with pytest.raises(InputError, match=f"samples of another {name.removesuffix('_sha256')}. Give another --out"):
            write_images(generator, tmp_path / "mine", 3, {**RECORD, name: other})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "photo.png").write_bytes(b"x")
    with pytest.raises(InputError, match="theirs holds other files"):
        write_images(generator, tmp_path / "theirs", 3, RECORD)
    assert contents(tmp_path / "mine") == before and contents(tmp_path / "theirs") == {"photo.png": b"x"}


def test_fewer_samples_change_neither_the_folder_nor_its_record(generator: Generator, tmp_path: Path) -> None:
    write_images(generator, tmp_path / "out", 9, {**RECORD, "images": 9})
    before = contents(tmp_path / "out"), (tmp_path / "out.json").read_bytes()
    assert write_images(generator, tmp_path / "out", 3, {**RECORD, "images": 3}) == (9, 0)
    assert (contents(tmp_path / "out"), (tmp_path / "out.json").read_bytes()) == before


def test_samples_of_another_checkpoint_are_named(generator: Generator, tmp_path: Path) -> None:
    """The run has a newer one by the time that the command is repeated."""
    old, new, foreign = (tmp_path / "a" / "step-1", tmp_path / "a" / "step-2", tmp_path / "b" / "step-2")
    old.mkdir(parents=True)
    write_images(generator, tmp_path / "out", 2, {**RECORD, "checkpoint": str(old)})
    advice = "out holds samples of step-1. Add --checkpoint step-1 to continue, or give another --out."
    for path, said in ((new, advice), (foreign, f"out holds samples of {old}. Give another --out.")):
        with pytest.raises(InputError) as refused:
            write_images(generator, tmp_path / "out", 3, {**RECORD, "checkpoint": str(path), "checkpoint_sha256": "d"})
        assert str(refused.value).endswith(said)


def test_a_full_disk_loses_nothing(generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = images._write, list[int]()

    def fill(folder: Path, some: Any) -> int:
        calls.append(len(some))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(folder, some)

    monkeypatch.setattr(images, "_write", fill)
    with pytest.raises(InputError, match=r"out cannot be written \(No space left on device\)\. .*which continues"):
        write_images(generator, tmp_path / "out", 3 * CHUNK, RECORD)
    monkeypatch.undo()
    write_images(generator, tmp_path / "out", 3 * CHUNK, RECORD)
    write_images(generator, tmp_path / "whole", 3 * CHUNK, RECORD)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_no_folder_can_be_made_below_a_file(generator: Generator, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_images(generator, tmp_path / "file" / "out", 1, RECORD)
