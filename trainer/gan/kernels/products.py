"""Convolutions with kernel 4, stride 2 and padding 1, and their gradients, as matrix products on CPUs.

All functions relate ``small`` images (n, wide, height, width), ``large`` ones (n, narrow, 2 height, 2 width) and a
``weight`` (wide, narrow, 4, 4), best in ``channels_last`` memory and of one dtype. ``up`` is the transposed convolution
and ``down`` the convolution; each is the gradient of the other. Images are processed in parts, so that the rows of a
product are still in the cache when it reads them.

In bf16, products sum in float32 and round once. The gradient of the weight adds up the rounded products of the parts in
float32 and rounds again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal, cast

import torch
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

Pass = Literal["forward", "images", "weight"]  # the gradients by what they are for
Products = frozenset[Pass]  # the passes of a layer that are matrix products
NONE: Products = frozenset()
WEIGHT: Products = frozenset({"weight"})
GRADIENTS: Products = WEIGHT | {"images"}
ALL: Products = GRADIENTS | {"forward"}


def up(small: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``conv_transpose2d(small, weight, stride=2, padding=1)``."""
    # Sums of bf16 patches would be rounded up to four times. In float32, patches are faster for small batches.
    return _up_from_windows(small, weight) if small.dtype == torch.bfloat16 else _up_to_patches(small, weight)


def down(large: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``conv2d(large, weight, stride=2, padding=1)``."""
    return cast("torch.Tensor", down_and_weight_gradient(large, None, weight)[0])


def weight_gradient(small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    """The gradient of the weight: of ``up`` at ``small``, whose output has the gradient ``large``, or of ``down`` at
    ``large``, whose output has the gradient ``small``.
    """
    return cast("torch.Tensor", down_and_weight_gradient(large, small, None)[1])


def down_and_weight_gradient(
    large: torch.Tensor, small: torch.Tensor | None, weight: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """``down(large, weight)`` and ``weight_gradient(small, large)``, each if its other argument is given.

    Both are products with the 4x4 patches of ``large``, which are gathered once.
    """
    count, height, width = len(large), large.shape[2] // 2, large.shape[3] // 2
    kernel = None if weight is None else rows(weight).view(len(weight), -1)
    images = None if kernel is None else large.new_empty(count, height, width, len(kernel))
    total: torch.Tensor | None = None
    for part, patches in _patches(large.permute(0, 2, 3, 1), height, width):
        if small is not None:
            total = _add_product(total, rows(small[part]).T, patches)
        if kernel is not None and images is not None:
            torch.mm(patches, kernel.T, out=images[part].view(-1, len(kernel)))
    return (
        None if images is None else images.permute(0, 3, 1, 2),
        None if total is None else total.to(large.dtype).view(len(total), 4, 4, -1).permute(0, 3, 1, 2),
    )


def _add_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """``total + left @ right``, in place or, in float32, a new sum of bf16 products."""
    if total is None:
        return torch.mm(left, right)
    return total.addmm_(left, right) if left.dtype != torch.bfloat16 else total.float().add_(torch.mm(left, right))


def convolve(images: torch.Tensor, weight: torch.Tensor, *, transposed: bool) -> torch.Tensor:
    """PyTorch's :func:`up`, if ``transposed``, or :func:`down`, which it differentiates any number of times."""
    return (F.conv_transpose2d if transposed else F.conv2d)(images, weight, stride=2, padding=1)


def convolution_gradients(
    grad_output: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, wanted: list[bool], *, transposed: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """PyTorch's gradients of ``images`` and ``weight``, as far as they are ``wanted``."""
    if not any(wanted):
        return None, None
    to_images, to_weight, _ = torch.ops.aten.convolution_backward(
        grad_output, images, weight, None, [2, 2], [1, 1], [1, 1], transposed, [0, 0], 1, [*wanted, False]
    )
    return to_images, to_weight


class Strided(torch.autograd.Function):
    """``convolve(images, weight, transposed=transposed)``, whose passes in ``products`` are matrix products."""

    @staticmethod
    def forward(
        ctx: Any, images: torch.Tensor, weight: torch.Tensor, transposed: bool, products: Products
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.transposed, ctx.products = transposed, products
        if "forward" not in products:
            return convolve(images, weight, transposed=transposed)
        return (up if transposed else down)(images, weight)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        small, large = (images, grad_output) if ctx.transposed else (grad_output, images)
        if torch.is_grad_enabled():  # the caller differentiates again: operations that PyTorch differentiates
            to_images = to_weight = None
            if _is_asked_for(ctx, 0):
                to_images = convolve(grad_output, weight, transposed=not ctx.transposed)
            if _is_asked_for(ctx, 1):
                to_weight = conv2d_weight(large, weight.shape, small, stride=2, padding=1)  # type: ignore[no-untyped-call]
            return to_images, to_weight, None, None
        wanted = ctx.needs_input_grad[:2]
        by_product = [want and name in ctx.products for want, name in zip(wanted, ("images", "weight"), strict=True)]
        others = [want and not mine for want, mine in zip(wanted, by_product, strict=True)]
        found = convolution_gradients(grad_output, images, weight, others, transposed=ctx.transposed)
        mine = _product_gradients(small, large, weight, by_product, transposed=ctx.transposed)
        return *(one if one is not None else other for one, other in zip(mine, found, strict=True)), None, None


def _is_asked_for(ctx: Any, number: int) -> bool:
    """Whether the caller asks for the gradient of this input: a penalty asks for that of the images alone.

    ``needs_input_grad`` tells which inputs have gradients, not which of them a call of ``autograd.grad`` is about.
    PyTorch has no public function for it; this one exists for the hooks of ``torch.autograd.graph``.
    """
    node = ctx.next_functions[number][0]
    try:
        return node is not None and torch._C._will_engine_execute_node(node)
    except RuntimeError:  # it refuses leaves that the caller asks for
        return True


def under_autocast(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, products: Products, *, transposed: bool
) -> torch.Tensor:
    """:class:`Strided` plus ``bias``, in the type of the CPU's autocast. The sum is rounded once more."""
    dtype = torch.get_autocast_dtype("cpu")
    out: torch.Tensor = Strided.apply(images.to(dtype), weight.to(dtype), transposed, products)
    return out if bias is None else out + bias.to(dtype)[:, None, None]


def _product_gradients(
    small: torch.Tensor, large: torch.Tensor, weight: torch.Tensor, wanted: list[bool], *, transposed: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if transposed:
        return down_and_weight_gradient(large, small if wanted[1] else None, weight if wanted[0] else None)
    return up(small, weight) if wanted[0] else None, weight_gradient(small, large) if wanted[1] else None


def rows(images: torch.Tensor) -> torch.Tensor:
    """Reshapes (n, channels, height, width) to (n height width, channels); a view in ``channels_last`` memory."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _up_to_patches(small: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Pixels (n h w, wide) times the weight (wide, 16 narrow) give 4x4 patches, which overlap two pixels apart."""
    count, _, height, width = small.shape
    out = small.new_zeros(count, 2 * height, 2 * width, weight.shape[1])
    kernel = rows(weight).view(len(weight), -1)
    parts = _parts(count, height * width, kernel.shape[1])
    room = small.new_empty(len(small[parts[0]]) * height * width, kernel.shape[1])
    for part in parts:
        pixels = rows(small[part])
        patches = torch.mm(pixels, kernel, out=room[: len(pixels)]).view(-1, height, width, 4, 4, weight.shape[1])
        for inside, tap, outside in _overlaps(height, width):
            out[part][outside] += patches[inside][:, :, :, *tap]
    return out.permute(0, 3, 1, 2)


def _up_from_windows(small: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Each pixel of the result is a sum over a 2x2 window: those in odd and even rows and columns are a product each
    of windows (n h w, 4 wide) and a quarter of the weight (4 wide, narrow).
    """
    (count, wide, height, width), narrow = small.shape, weight.shape[1]
    out = small.new_empty(count, height, 2, width, 2, narrow)
    pixels, taps = small.permute(0, 2, 3, 1), weight.permute(2, 3, 0, 1)
    parts = _parts(count, height * width, 4 * wide)
    room = small.new_empty(len(small[parts[0]]), height, width, 2, 2, wide)
    for part in parts:
        for y, x in product(range(2), range(2)):
            padded = F.pad(pixels[part], (0, 0, 1 - x, x, 1 - y, y))
            windows = _gather(padded, 2, 1, room)
            kernel = taps[[3 - y, 1 - y]][:, [3 - x, 1 - x]].view(-1, narrow)
            out[part, :, y, :, x] = torch.mm(windows, kernel).view(-1, height, width, narrow)
    return out.view(count, 2 * height, 2 * width, narrow).permute(0, 3, 1, 2)


def _patches(large: torch.Tensor, height: int, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """Slices of the images (n, 2 height, 2 width, narrow), and their patches (n height width, 16 narrow), which the
    next ones overwrite.
    """
    parts = _parts(len(large), height * width, 16 * large.shape[3])
    room = large.new_empty(len(large[parts[0]]), height, width, 4, 4, large.shape[3])
    for part in parts:
        yield part, _gather(F.pad(large[part], (0, 0, 1, 1, 1, 1)), 4, 2, room)


def _gather(images: torch.Tensor, side: int, step: int, room: torch.Tensor) -> torch.Tensor:
    """Copies the square windows of ``images`` (n, height, width, channels) to ``room``, which has space for n images or
    more. Returns them as rows (windows, side side channels).
    """
    windows = images.unfold(1, side, step).unfold(2, side, step).movedim(3, 5)
    return room[: len(windows)].copy_(windows).view(-1, side * side * images.shape[3])


def _parts(count: int, pixels: int, columns: int) -> list[slice]:
    """Parts of ``count`` images, with enough rows for a fast product and patches that fit a cache."""
    step = max(1, max(2048, 2**22 // columns) // pixels)
    return [slice(first, first + step) for first in range(0, count, step)]


Slices = tuple[slice, ...]


def _overlaps(height: int, width: int) -> Iterator[tuple[Slices, tuple[int, int], Slices]]:
    """For each tap of the kernel: slices of the input pixels it reads, the tap, and slices of the output it adds to."""
    for y, x in product(range(4), range(4)):
        (inputs, outputs), (columns, out_columns) = _extent(y, height), _extent(x, width)
        yield (slice(None), inputs, columns), (y, x), (slice(None), outputs, out_columns)


def _extent(tap: int, size: int) -> tuple[slice, slice]:
    """Input pixel i adds to output pixel 2 i + tap - 1, where that exists."""
    first, last = int(tap == 0), size - (tap == 3)
    return slice(first, last), slice(2 * first + tap - 1, max(0, 2 * last + tap - 2), 2)
