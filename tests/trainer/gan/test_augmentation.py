from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.gan import augmentation
from trainer.gan.augmentation import VALUES, augment, draw
from trainer.gan.noise import AUGMENTATION, latents, uniforms
from trainer.recipe import AUGMENTATIONS

ONE, NONE = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
numbers = st.floats(0, 1, exclude_max=True)


def pictures(count: int = 3, channels: int = 3, size: int = 16) -> torch.Tensor:
    """Without a value that is 0, as pixels from outside of an image are."""
    values = latents(3, 0, count, channels * size * size).reshape(count, size, size, channels).permute(0, 3, 1, 2)
    return values.tanh() + torch.where(values < 0, -0.01, 0.01)


def given_numbers(**values: float) -> torch.Tensor:
    """Numbers of one image, 0.5 but for those named, which change nothing but the cutout."""
    row = torch.full((1, VALUES), 0.5, dtype=torch.float64)
    for name, value in values.items():
        row[0, getattr(augmentation, name.upper())] = value
    return row


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 10**12), split=st.integers(1, 6))
def test_numbers_are_those_of_their_position_whatever_the_batch(seed: int, position: int, split: int) -> None:
    whole = draw(seed, position, 7)
    assert whole.shape == (7, 4, VALUES) and whole.min() >= 0 and whole.max() < 1
    assert torch.equal(torch.cat([draw(seed, position, split), draw(seed, position + split, 7 - split)]), whole)
    assert whole.unique().numel() == whole.numel(), "images, real and generated, D's step and G's: all differ"
    assert not torch.equal(draw(seed, position, 7, AUGMENTATION + 256), whole)


def test_numbers_are_uniform() -> None:
    values = uniforms(5, 3, 10_000, 12, AUGMENTATION)
    assert values.mean(0).sub(0.5).abs().max() < 5 * 12**-0.5 / 100
    assert values.var(0).sub(1 / 12).abs().max() < 0.004


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_at_probability_0_no_bit_changes(channels: int, dtype: torch.dtype) -> None:
    images = pictures(channels=channels).to(dtype)
    assert torch.equal(augment(images, draw(0, 0, 3)[:, 0], AUGMENTATIONS, NONE), images)
    assert augment(images, draw(0, 0, 3)[:, 0], AUGMENTATIONS, ONE).dtype == dtype


def test_each_augmentation_has_its_probability() -> None:
    count, share = 2000, torch.full_like(ONE, 0.3)
    images = pictures(1, size=8).expand(count, -1, -1, -1)
    for name in AUGMENTATIONS:
        changed = (augment(images, draw(1, 0, count)[:, 0], [name], share) != images).flatten(1).any(1).double().mean()
        assert (8 / 9 if name == "translation" else 1) * 0.3 == pytest.approx(changed.item(), abs=0.06)


@settings(max_examples=50, deadline=None)
@given(down=numbers, right=numbers, channels=st.sampled_from([1, 3]))
def test_a_translation_moves_by_whole_pixels(down: float, right: float, channels: int) -> None:
    """By -2 to 2 at 16 pixels; what comes from outside is 0."""
    images = pictures(1, channels)
    moved = augment(images, given_numbers(down=down, right=right), ["translation"], ONE)
    y, x = int(down * 5) - 2, int(right * 5) - 2
    assert torch.equal(moved[..., max(y, 0) : 16 + y, max(x, 0) : 16 + x],
                       images[..., max(-y, 0) : 16 - y, max(-x, 0) : 16 - x])  # fmt: skip
    assert (moved != 0).sum() == channels * (16 - abs(y)) * (16 - abs(x))


@settings(max_examples=50, deadline=None)
@given(row=numbers, column=numbers, size=st.sampled_from([32, 64]))
def test_a_cutout_is_a_square_of_half_the_size_within_the_image(row: float, column: float, size: int) -> None:
    images = torch.ones(1, 2, size, size)
    removed = augment(images, given_numbers(row=row, column=column), ["cutout"], ONE)[0, 0] == 0
    sides = [min(centre + size // 4, size) - max(centre - size // 4, 0)
             for centre in (int(row * (size + 1)), int(column * (size + 1)))]  # fmt: skip
    assert removed.sum() == sides[0] * sides[1] > 0
    assert (removed.any(1).sum(), removed.any(0).sum()) == tuple(sides)


@settings(max_examples=50, deadline=None)
@given(brightness=numbers, saturation=numbers, contrast=numbers, channels=st.sampled_from([1, 3]))
def test_colors_change_as_in_the_paper(brightness: float, saturation: float, contrast: float, channels: int) -> None:
    images = pictures(1, channels)
    row = given_numbers(brightness=brightness, saturation=saturation, contrast=contrast)
    wanted = images + (brightness - 0.5)
    grey = wanted.mean(1, keepdim=True)
    wanted = (wanted - grey) * 2 * saturation + grey if channels > 1 else wanted
    mean = wanted.mean((1, 2, 3), keepdim=True)
    wanted = (wanted - mean) * (contrast + 0.5) + mean
    torch.testing.assert_close(augment(images, row, ["color"], ONE), wanted, rtol=0, atol=1e-12)


def test_the_generator_learns_through_it() -> None:
    images = pictures(2, size=8).requires_grad_()
    drawn = draw(2, 0, 2)[:, 0]
    assert torch.autograd.gradcheck(lambda values: augment(values, drawn, AUGMENTATIONS, ONE), (images,))


def test_it_keeps_the_layout_of_images() -> None:
    images = pictures().contiguous(memory_format=torch.channels_last)
    out = augment(images, draw(0, 0, 3)[:, 0], AUGMENTATIONS, ONE)
    assert out.is_contiguous(memory_format=torch.channels_last)
