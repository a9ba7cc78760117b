"""Transposed convolution as matrix products on CPUs without AVX-512.

There, oneDNN parallelises a convolution over the width of its images. From 4x4 to 8x8 pixels with DCGAN's 1024 channels
it reaches half the rate of a matrix product, and this layer alone takes a quarter of the training step
(``docs/log.md``). oneDNN is as fast from 8x8 in the forward pass and from 32x32 in the backward pass. Its kernels for
AVX-512 are up to twice as fast as the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

FORWARDS, BACKWARDS = 4, 16  # largest height and width for which the matrix product is faster


class Doubling(nn.ConvTranspose2d):
    """Transposed convolution with kernel 4 and stride 2: (n, wide, size, size) to (n, narrow, 2 size, 2 size)."""

    def __init__(self, wide: int, narrow: int, *, bias: bool) -> None:
        super().__init__(wide, narrow, 4, 2, 1, bias=bias)

    def forward(self, images: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:  # noqa: ARG002
        return double(images, self.weight, self.bias, training=self.training)


def double(images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, training: bool) -> torch.Tensor:
    """``conv_transpose2d(images, weight, bias, stride=2, padding=1)``, as matrix products where they are faster."""
    small = images.is_cpu and images.shape[-1] <= BACKWARDS and bias is None and not _has_avx512()
    if not (small and training) or torch.is_autocast_enabled("cpu"):
        return F.conv_transpose2d(images, weight, bias, stride=2, padding=1)
    return as_product(images, weight)


def as_product(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``conv_transpose2d(images, weight, stride=2, padding=1)`` for a ``weight`` (wide, narrow, 4, 4), best in
    ``channels_last`` memory.
    """
    out: torch.Tensor = _Product.apply(images, weight)
    return out


class _Product(torch.autograd.Function):
    """Pixels (n h w, wide) times the weight (wide, 16 narrow) give 4x4 patches, which overlap two pixels apart.

    Images are processed in parts, so that the patches are still in the cache when they are added up.
    """

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        count, _, height, width = images.shape
        if height > FORWARDS:
            return F.conv_transpose2d(images, weight, stride=2, padding=1)
        out = images.new_zeros(count, 2 * height, 2 * width, weight.shape[1])
        kernel = _rows(weight).view(len(weight), -1)
        parts = _parts(count, height * width, kernel.shape[1])
        room = images.new_empty(len(images[parts[0]]) * height * width, kernel.shape[1])
        for part in parts:
            pixels = _rows(images[part])
            patches = torch.mm(pixels, kernel, out=room[: len(pixels)]).view(-1, height, width, 4, 4, weight.shape[1])
            for inside, tap, outside in _overlaps(height, width):
                out[part][outside] += patches[inside][:, :, :, *tap]
        return out.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        images, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # the caller differentiates again: operations that PyTorch differentiates
            to_weight = conv2d_weight(gradient, weight.shape, images, stride=2, padding=1)  # type: ignore[no-untyped-call]
            return F.conv2d(gradient, weight, stride=2, padding=1), to_weight
        count, _, height, width = images.shape
        gradient, kernel = gradient.permute(0, 2, 3, 1), _rows(weight).view(len(weight), -1)
        to_weight = torch.zeros_like(kernel)
        to_images = images.new_empty(count, height, width, len(weight)) if ctx.needs_input_grad[0] else None
        parts = _parts(count, height * width, kernel.shape[1])
        room = images.new_zeros(len(images[parts[0]]), height, width, 4, 4, weight.shape[1])  # zero at the edges
        for part in parts:
            patches = room[: len(images[part])]
            for inside, tap, outside in _overlaps(height, width):
                patches[inside][:, :, :, *tap] = gradient[part][outside]
            rows = patches.view(-1, kernel.shape[1])
            to_weight.addmm_(_rows(images[part]).T, rows)
            if to_images is not None:
                torch.mm(rows, kernel.T, out=to_images[part].view(-1, len(weight)))
        return (
            None if to_images is None else to_images.permute(0, 3, 1, 2),
            to_weight.view(len(weight), 4, 4, -1).permute(0, 3, 1, 2),
        )


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _rows(images: torch.Tensor) -> torch.Tensor:
    """Reshapes (n, channels, height, width) to (n height width, channels); a view in ``channels_last`` memory."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _parts(count: int, pixels: int, columns: int) -> list[slice]:
    """Parts of ``count`` images, with enough rows for a fast product and patches that fit a cache."""
    step = max(1, max(2048, 2**22 // columns) // pixels)
    return [slice(first, first + step) for first in range(0, count, step)]


Slices = tuple[slice, ...]


def _overlaps(height: int, width: int) -> Iterator[tuple[Slices, tuple[int, int], Slices]]:
    """For each tap of the kernel: slices of the input pixels it reads, the tap, and slices of the output it adds to."""
    for y, x in product(range(4), range(4)):
        (rows, out_rows), (columns, out_columns) = _extent(y, height), _extent(x, width)
        yield (slice(None), rows, columns), (y, x), (slice(None), out_rows, out_columns)


def _extent(tap: int, size: int) -> tuple[slice, slice]:
    """Input pixel i adds to output pixel 2 i + tap - 1, where that exists."""
    first, last = int(tap == 0), size - (tap == 3)
    return slice(first, last), slice(2 * first + tap - 1, max(0, 2 * last + tap - 2), 2)
