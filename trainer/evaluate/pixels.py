"""Scores that compare pixels: they need no weights."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shards.common.progress import Advance

SMALLEST = 16  # pixels, side of the coarsest band
PATCH, PATCHES = 7, 128  # side of a patch, patches of an image
REPEATS, DIRECTIONS = 4, 128
CHUNK = 64  # images whose bands are in memory at a time


def projections(side: int) -> int:
    """Comparisons of all patches by :func:`sliced_wasserstein`, for images of ``side`` pixels."""
    return REPEATS * (side // SMALLEST).bit_length()


def sliced_wasserstein(
    real: Tensor, fake: Tensor, seed: int = 0, advance: Advance = lambda _: None
) -> dict[int, float]:
    """Sliced Wasserstein distance x 1000 between patches of each band of the Laplacian pyramid (Karras et al., arXiv
    1710.10196), by the side of the band in pixels, finest first.

    The fine bands compare texture, the coarse ones shapes and colours. ``real`` and ``fake`` are uint8 (n, channels,
    side, side) of the same shape. The value of two sets of real images is the least that can be reached.
    """
    result: dict[int, float] = {}
    while (side := real.shape[-1]) >= SMALLEST:
        generator = torch.Generator().manual_seed(seed + side)
        ours, real = _take_band(real, generator.clone_state())
        theirs, fake = _take_band(fake, generator.clone_state())
        result[side] = 1000 * _projected_distance(ours, theirs, generator, advance)
    return result


def multiscale_similarity(images: Tensor) -> float:
    """Mean MS-SSIM between the images of the first and of the second half (Odena et al., arXiv 1610.09585).

    It measures diversity: 1 means that all images are the same. Compare it with that of the real images. ``images`` are
    uint8 (n, channels, side, side) of 32 to 256 pixels. 32 are too few for the five scales of the paper; the three
    finest are used.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    weights = (0.0448, 0.2856, 0.3001)
    half = len(images) // 2
    values = [
        multiscale_structural_similarity_index_measure(
            a.float(), b.float(), gaussian_kernel=True, sigma=1.5, kernel_size=7, data_range=255.0,
            betas=tuple(weight / sum(weights) for weight in weights), normalize="relu", reduction="none",
        )  # the window is one of 11 pixels, by sigma; kernel_size, which must fit the smallest scale, changes nothing
        for a, b in zip(torch.split(images[:half], 64), torch.split(images[half : 2 * half], 64), strict=True)
    ]  # fmt: skip
    return torch.cat([value.reshape(-1) for value in values]).mean().item()


def _take_band(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Patches of the finest band of ``images``, and what is left of them: float32, of half the side.

    The patches (patches, values) are random ones, with mean 0 and variance 1 in each channel of the whole set. The band
    is made of some images at a time: of 2,048 of 256 pixels, it would take 1.6 GB.
    """
    n, _, side, _ = images.shape
    places = torch.randint(side - PATCH + 1, (2, n, PATCHES), generator=generator).to(images.device)
    patches, rest = [], []
    for part, (rows, columns) in zip(torch.split(images, CHUNK), torch.split(places, CHUNK, 1), strict=True):
        band, small = _split(part.float())
        patches.append(_cut(band, rows.flatten(), columns.flatten()))
        rest.append(small)
    values = torch.cat(patches)
    std, mean = torch.std_mean(values, (0, 2, 3), keepdim=True, correction=0)
    return ((values - mean) / std.clamp(min=1e-6)).flatten(1), torch.cat(rest)


def _split(images: Tensor) -> tuple[Tensor, Tensor]:
    """The finest band of the Laplacian pyramid of float32 ``images`` and the images at half the side. The coarsest band
    is the small image itself.
    """
    small = _smooth(images)[..., ::2, ::2]
    if images.shape[-1] == SMALLEST:
        return images, small
    spread = torch.zeros_like(images)
    spread[..., ::2, ::2] = small
    return images - 4 * _smooth(spread), small


def _cut(band: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``PATCHES`` patches of each image of ``band``, whose first rows and columns are given."""
    image = torch.arange(len(band), device=band.device).repeat_interleave(PATCHES).view(-1, 1, 1, 1)
    channel = torch.arange(band.shape[1], device=band.device).view(-1, 1, 1)
    offset = torch.arange(PATCH, device=band.device)
    return band[image, channel, rows.view(-1, 1, 1, 1) + offset.view(-1, 1), columns.view(-1, 1, 1, 1) + offset]


def _smooth(images: Tensor) -> Tensor:
    """Convolution with the 5x5 binomial filter, mirrored at the edges."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    kernel = torch.outer(line, line).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=images.shape[1])


def _projected_distance(a: Tensor, b: Tensor, generator: torch.Generator, advance: Advance) -> float:
    """Mean distance between the sorted projections of ``a`` and ``b`` on random directions."""
    means = []
    for _ in range(REPEATS):
        directions = torch.randn(DIRECTIONS, a.shape[1], generator=generator).to(a.device)
        directions /= directions.norm(dim=1, keepdim=True)
        projected = directions @ a.T, directions @ b.T
        means.append(_sorted_distance(*projected))
        advance(1)
    return torch.stack(means).mean().item()


def _sorted_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean distance between the sorted rows of ``a`` and ``b``.

    On the CPU the values are rounded to 16 bits, because NumPy sorts those ten times faster, by radix. This changes the
    sixth digit of the result.
    """
    if a.device.type != "cpu":
        return (a.sort(dim=-1).values - b.sort(dim=-1).values).abs().mean()
    scale = torch.maximum(a.abs().amax(1), b.abs().amax(1)).clamp(min=1e-6)[:, None] / 32_767
    ranked = [torch.from_numpy(np.sort((x / scale).round().short().numpy(), kind="stable")) for x in (a, b)]
    return ((ranked[0].float() - ranked[1].float()).abs() * scale).mean()
