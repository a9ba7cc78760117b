"""Scores of pixels on images whose order is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shards.loading.dataset import ShardDataset
from trainer.evaluate import pixels
from trainer.evaluate.pixels import multiscale_similarity, sliced_wasserstein


@pytest.fixture(scope="module")
def faces(faces32: Path) -> Tensor:
    dataset = ShardDataset(faces32)
    images = dataset.__getitems__(range(256)).images.permute(0, 3, 1, 2)
    dataset.reader.close()
    return images


def noisy(images: Tensor, strength: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + strength * noise).round().clamp(0, 255).byte()


def test_equal_sets_have_no_distance(faces: Tensor) -> None:
    assert sliced_wasserstein(faces, faces) == {32: 0, 16: 0}


def test_the_finest_band_orders_clean_and_noisy_images(faces: Tensor) -> None:
    half = len(faces) // 2
    real, other = faces[:half], faces[half:]
    distances = [sliced_wasserstein(real, noisy(other, strength)) for strength in (0, 15, 30)]
    clean, some, much = (distance[32] for distance in distances)
    assert clean < some < much and much > 3 * clean
    coarse = [distance[16] for distance in distances]
    assert max(coarse) < 1.3 * min(coarse)  # the noise is fine


def test_images_of_256_pixels_have_five_bands_and_a_similarity(faces: Tensor) -> None:
    large = torch.nn.functional.interpolate(faces[:8].float(), size=256, mode="bicubic").clamp(0, 255).byte()
    distances = sliced_wasserstein(large[:4], noisy(large[4:], 20))
    assert list(distances) == [256, 128, 64, 32, 16]
    assert distances[256] > 3 * distances[64]  # enlarged images have no fine band, the noise has
    assert 0 < multiscale_similarity(large) < 1


def test_the_bands_add_up_to_the_image(faces: Tensor) -> None:
    fine, small = pixels._split(faces[:4].float())
    spread = torch.zeros_like(fine)
    spread[..., ::2, ::2] = small
    torch.testing.assert_close(fine + 4 * pixels._smooth(spread), faces[:4].float())


def test_patches_lie_in_their_image_and_are_normalised(faces: Tensor) -> None:
    patches, rest = pixels._take_band(faces[:70], torch.Generator().manual_seed(0))
    assert rest.shape == (70, 3, 16, 16)
    assert patches.shape == (70 * pixels.PATCHES, 3 * pixels.PATCH**2)
    channels = patches.view(-1, 3, pixels.PATCH**2)
    torch.testing.assert_close(channels.mean((0, 2)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(channels.std((0, 2), correction=0), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
def test_sorting_by_16_bits_keeps_five_digits(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (scale * torch.randn(16, 5000, generator=generator) for _ in range(2))
    expected = np.abs(np.sort(a.numpy(), axis=1) - np.sort(b.numpy(), axis=1)).mean()
    assert pixels._sorted_distance(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_similarity_is_one_for_equal_images_and_low_for_noise(faces: Tensor) -> None:
    assert multiscale_similarity(faces[:1].expand(8, -1, -1, -1)) == pytest.approx(1)
    noise = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert multiscale_similarity(noise) < 0.1
    few = faces[:4].repeat_interleave(32, 0).flatten(0, 1).view(128, *faces.shape[1:])
    assert multiscale_similarity(few[torch.randperm(128, generator=torch.Generator().manual_seed(2))]) > (
        multiscale_similarity(faces[:128])
    )
