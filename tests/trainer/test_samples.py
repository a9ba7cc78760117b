from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from shards.loading.loader import normalise
from trainer.gan.dcgan import DcganGenerator
from trainer.gan.mlp import MlpGenerator
from trainer.gan.networks import has_batch_norm, initialise
from trainer.gan.noise import FIXED, latents
from trainer.samples import caption, fixed_latents, generate, to_pixels


@pytest.fixture
def generator() -> DcganGenerator:
    network = DcganGenerator(32, 3, 8, 2)
    initialise(network, 0)
    return network


def test_the_latents_are_the_seeds_own_and_not_those_of_training() -> None:
    fixed = fixed_latents(3, 5, 7)
    assert fixed.shape == (5, 7)
    assert torch.equal(fixed, latents(3, 0, 5, 7, FIXED))
    assert torch.equal(fixed, fixed_latents(3, 9, 7)[:5])
    assert not torch.equal(fixed, fixed_latents(4, 5, 7))
    assert not torch.isclose(fixed, latents(3, 0, 5, 7)).any()


def test_the_caption_mentions_only_batch_norm_that_exists(generator: DcganGenerator) -> None:
    for network, mode in ((generator, ", BatchNorm in eval mode"), (MlpGenerator(32, 3, 8, 2), "")):
        text = caption(3, 5, 1000, 0, batch_norm=has_batch_norm(network))
        assert text == f"Step 1,000: fixed latents 0 to 4 of seed 3, the weights of that step{mode}."


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_images_come_in_single_precision_on_the_cpu(generator: DcganGenerator, dtype: torch.dtype) -> None:
    images = generate(generator.to(dtype), fixed_latents(0, 3, 8))
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.float32
    assert not images.requires_grad


def test_in_eval_mode_an_image_does_not_depend_on_its_neighbours(generator: DcganGenerator) -> None:
    noise = fixed_latents(0, 7, 8)
    generator.eval()
    state = {name: value.clone() for name, value in generator.state_dict().items()}
    whole = generate(generator, noise)
    assert torch.allclose(generate(generator, noise, batch=3), whole, atol=1e-6)
    assert torch.allclose(generate(generator, noise[4:5])[0], whole[4], atol=1e-6)
    assert all(torch.equal(value, state[name]) for name, value in generator.state_dict().items())


def test_the_mode_is_left_as_it_is(generator: DcganGenerator) -> None:
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


def test_pixels_show_the_whole_range_as_it_is() -> None:
    """Not stretched to the darkest and the brightest value present, and nothing beyond the range."""
    values = torch.tensor([-1.0, -0.5, 0.0, 1.0])
    for scale in (0.5, 1.0, 3.0):
        shown = to_pixels((scale * values)[:, None, None, None].expand(-1, 3, 6, 5))
        assert shown.shape == (4, 6, 5, 3)
        assert shown.dtype == np.uint8
        expected = ((scale * values).clamp(-1, 1) + 1) * 127.5
        assert [image.max() for image in shown] == [round(float(value) + 0.01) for value in expected]
        assert all(image.min() == image.max() for image in shown)


def test_every_byte_comes_back_from_the_range_that_training_sees() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert np.array_equal(to_pixels(normalise(levels, torch.float32)), levels.numpy())
