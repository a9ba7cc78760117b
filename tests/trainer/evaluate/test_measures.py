"""Scores order copies of real photographs as people do: clean, a little spoilt, much spoilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from shards.loading.dataset import ShardDataset
from tests.support.make import make_shards
from trainer.evaluate.measures import Measure, create_measure

COUNT, SIDE = 200, 64


@pytest.fixture(scope="module")
def photographs(real_data: Path) -> list[Image.Image]:
    """Faces of CelebA, as the build crops them."""
    images = []
    for path in sorted((real_data / "celeba" / "img_align_celeba").glob("*.jpg"))[: 2 * COUNT]:
        with Image.open(path) as photo:
            images.append(ImageOps.fit(photo.convert("RGB"), (SIDE, SIDE)))
    return images


def tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def noisy(images: list[Image.Image], strength: float) -> torch.Tensor:
    clean = tensor(images).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return (clean + strength * noise).round().clamp(0, 255).byte()


def blurred(images: list[Image.Image], radius: float) -> torch.Tensor:
    return tensor([image.filter(ImageFilter.GaussianBlur(radius)) for image in images])


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> list[Measure]:
    folder = tmp_path_factory.mktemp("measures")
    make_shards(folder)
    return [create_measure(name, torch.device("cpu"), ShardDataset(folder), None) for name in ("lite0", "pixels")]


def test_spoilt_photographs_score_worse(photographs: list[Image.Image], measures: list[Measure]) -> None:
    half, others = photographs[:COUNT], photographs[COUNT:]
    copies = {
        "clean": tensor(others),
        "blur 0.5": blurred(others, 0.5),
        "blur 1": blurred(others, 1),
        "noise 5": noisy(others, 5),
        "noise 15": noisy(others, 15),
    }
    for measure, score in zip(measures, ("kd-lite0", "swd-64"), strict=True):
        real = measure.describe(tensor(half))
        values = {name: measure.compare(real, measure.describe(images))[score] for name, images in copies.items()}
        assert values["clean"] < values["blur 0.5"] < values["blur 1"], values
        assert values["clean"] < values["noise 5"] < values["noise 15"], values
