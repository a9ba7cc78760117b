"""Differentiable augmentation of what the discriminator sees (DiffAugment, Zhao et al., arXiv 2006.10738).

Real and generated images are augmented alike, so that the discriminator learns less of a small data set by heart. It
sees the generator's images after the augmentation only, and the generator gets its gradient through it: images that
are augmented already would be augmented twice. All of it is a function of (seed, position).
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from trainer.gan.noise import AUGMENTATION, uniforms

REAL, FAKE, REAL_FOR_G, FAKE_FOR_G = range(4)
"""Real and generated images in the discriminator's step and in the generator's: each has its own numbers."""
COLOR, TRANSLATION, CUTOUT, BRIGHTNESS, SATURATION, CONTRAST, DOWN, RIGHT, ROW, COLUMN = range(10)
"""Meaning of the numbers of an image. The first three decide whether each augmentation is applied."""
VALUES = 12  # numbers of an image, a multiple of Philox's four; the last two have no use


def draw(seed: int, position: int, count: int, purpose: int = AUGMENTATION) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 (count, 4, 12), by use and meaning. Row i belongs to ``position + i``."""
    return uniforms(seed, position, count, 4 * VALUES, purpose).view(count, 4, VALUES)


def augment(
    images: torch.Tensor, numbers: torch.Tensor, policy: Collection[str], probability: torch.Tensor
) -> torch.Tensor:
    """Augments each of the ``images`` (n, channels, size, size) by its ``numbers``, float64 (n, 12) of :func:`draw`.

    ``policy`` holds ``color``, ``translation`` and ``cutout``, which are applied in this order, each with
    ``probability``, float64 (). Values may leave [-1, 1]; pixels from outside of the image and cut ones are 0.
    """
    applied = numbers < probability
    if "color" in policy:
        images = _color(images, numbers, applied[:, COLOR])
    if "translation" in policy:
        images = _translate(images, numbers[:, DOWN : RIGHT + 1], applied[:, TRANSLATION])
    if "cutout" in policy:
        images = _cut(images, numbers[:, ROW : COLUMN + 1], applied[:, CUTOUT])
    return images


def _color(images: torch.Tensor, numbers: torch.Tensor, applied: torch.Tensor) -> torch.Tensor:
    """Adds up to 0.5 to all values, scales the distance from grey by 0 to 2, then that from the mean by 0.5 to 1.5.

    The three are one sum, so that an image that is not changed stays the same to the bit.
    """
    centred = (numbers - 0.5) * applied[:, None]
    brightness, saturation, contrast = (
        centred[:, column, None, None, None].to(images.dtype) for column in (BRIGHTNESS, SATURATION, CONTRAST)
    )
    saturation = 2 * saturation if images.shape[1] > 1 else torch.zeros_like(saturation)
    grey = images.mean(1, keepdim=True)
    mean = grey.mean((2, 3), keepdim=True)
    level = brightness - contrast * mean - saturation * (1 + contrast) * grey
    return images * ((1 + saturation) * (1 + contrast)) + level


def _translate(images: torch.Tensor, numbers: torch.Tensor, applied: torch.Tensor) -> torch.Tensor:
    """Moves down and right by up to an eighth of the size, a whole number of pixels."""
    count, channels, size, _ = images.shape
    most = size // 8
    shifts = ((numbers * (2 * most + 1)).floor().long() - most) * applied[:, None]
    sources = torch.arange(size, device=images.device) - shifts[..., None]  # (n, 2, size)
    inside = _square((sources >= 0) & (sources < size))
    # Wrapped around, so that each pixel is read once: its gradient is a sum of one, in the same order on any device.
    rows, columns = (sources % size).unbind(1)
    pixels = (rows[:, :, None] * size + columns[:, None, :]).view(count, -1, 1).expand(-1, -1, channels)
    moved = images.permute(0, 2, 3, 1).reshape(count, -1, channels).gather(1, pixels)
    return moved.view(count, size, size, channels).permute(0, 3, 1, 2) * inside


def _cut(images: torch.Tensor, numbers: torch.Tensor, applied: torch.Tensor) -> torch.Tensor:
    """Removes a square of half the size, whose centre may be anywhere in the image."""
    size = images.shape[-1]
    centres = (numbers * (size + 1)).floor()[..., None]
    distances = torch.arange(size, device=images.device) - centres  # (n, 2, size)
    cut = _square((distances >= -(size // 4)) & (distances < size // 4)) & applied[:, None, None, None]
    return images * ~cut


def _square(sides: torch.Tensor) -> torch.Tensor:
    """Where both the row and the column of a pixel are true in ``sides`` (n, 2, size): (n, 1, size, size)."""
    rows, columns = sides.unbind(1)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
