from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer.networks import Generator, initialise
from trainer.noise import FIXED, latents
from trainer.samples import fixed_latents, generate, write_sheet

GAP = 2
"""Pixels between two images of a sheet, and around it."""


@pytest.fixture
def generator() -> Generator:
    network = Generator(32, 3, 8, 2)
    initialise(network, 0)
    return network


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_the_latents_are_the_seeds_own_and_not_those_of_training() -> None:
    fixed = fixed_latents(3, 5, 7)
    assert fixed.shape == (5, 7)
    assert torch.equal(fixed, latents(3, 0, 5, 7, FIXED))
    assert torch.equal(fixed, fixed_latents(3, 9, 7)[:5])
    assert not torch.equal(fixed, fixed_latents(4, 5, 7))
    assert not torch.isclose(fixed, latents(3, 0, 5, 7)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_come_in_single_precision_on_the_cpu(generator: Generator, dtype: torch.dtype) -> None:
    images = generate(generator.to(dtype), fixed_latents(0, 3, 8))
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert not images.requires_grad


def test_in_eval_mode_an_image_does_not_depend_on_its_neighbours(generator: Generator) -> None:
    noise = fixed_latents(0, 7, 8)
    generator.eval()
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    whole = generate(generator, noise)
    assert torch.allclose(generate(generator, noise, batch=3), whole, atol=1e-6)
    assert torch.allclose(generate(generator, noise[4:5])[0], whole[4], atol=1e-6)
    assert all(torch.equal(value, state[name]) for name, value in generator.state_dict().items())


def test_the_mode_is_left_as_it_is(generator: Generator) -> None:
    noise = fixed_latents(0, 4, 8)
    generator.train()
    alive = generate(generator, noise)
    assert generator.training
    assert not torch.allclose(alive, generate(generator.eval(), noise), atol=1e-3)
    assert not generator.training


class Constant(nn.Module):
    """Paints each latent's value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        return noise[:, :1, None, None].expand(-1, 1, 4, 4)


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_images_stand_in_the_order_of_their_latents(batch: int) -> None:
    noise = torch.linspace(-1, 1, 9)[:, None]
    assert generate(Constant(), noise, batch)[:, 0, 0, 0].tolist() == noise[:, 0].tolist()


@pytest.mark.parametrize(("count", "columns", "rows"), [(2, 2, 1), (4, 2, 2), (5, 3, 2), (64, 8, 8), (65, 9, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_is_near_square(tmp_path: Path, count: int, columns: int, rows: int, channels: int) -> None:
    write_sheet(torch.zeros(count, channels, 8, 8), tmp_path / "x.png")
    assert pixels(tmp_path / "x.png").shape == (rows * (8 + GAP) + GAP, columns * (8 + GAP) + GAP, 3)


def test_a_sheet_shows_the_whole_range_as_it_is(tmp_path: Path) -> None:
    """Not stretched to the darkest and the brightest pixel present, and nothing beyond the range."""
    values = torch.tensor([-1.0, -0.5, 0.0, 1.0])
    for scale in (0.5, 1.0, 3.0):
        write_sheet((scale * values)[:, None, None, None].expand(-1, 3, 6, 6), tmp_path / "x.png")
        sheet = pixels(tmp_path / "x.png")
        found = [sheet[GAP + 8 * (i // 2) + 3, GAP + 8 * (i % 2) + 3].tolist() for i in range(4)]
        expected = ((scale * values).clamp(-1, 1) + 1) * 127.5
        assert found == [[round(float(value) + 0.01)] * 3 for value in expected]


def test_equal_images_give_equal_files(generator: Generator, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_sheet(generate(generator.eval(), fixed_latents(1, 5, 8)), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
