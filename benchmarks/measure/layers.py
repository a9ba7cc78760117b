"""Times of single layers: as oneDNN's convolutions, as our matrix products, and of a bare product of the same size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.rivals.contestants import CHANNELS, SIZE
from trainer.config import Model
from trainer.gan.factory import create_networks
from trainer.gan.kernels.choice import GAIN, LARGEST, Shape, fastest, shapes
from trainer.gan.kernels.products import Pass
from trainer.gan.kernels.transposed_convolution import float32_passes

TITLES = {"forward": "forward", "images": "gradient of input", "weight": "gradient of weight"}


@dataclass(frozen=True)
class Row:
    """Milliseconds of one pass of a layer; those of products are None for BatchNorm."""

    layer: str
    dtype: str
    what: str
    convolution: float
    product: float | None = None
    bare: float | None = None
    """A matrix product of as many operations, on numbers that lie ready."""
    chosen: bool = False
    """Whether a training computes the pass as a product."""


def measure_layers(features: int, batch_size: int, dtypes: list[torch.dtype]) -> Iterator[Row]:
    """The passes of all convolutions with stride 2 but the first, and of the BatchNorm behind each, at 64x64 pixels."""
    networks = create_networks(Model(features_g=features, features_d=features), SIZE, CHANNELS)
    found = shapes(*networks, SIZE, CHANNELS, batch_size)
    for dtype in dtypes:
        for name, shape in found.items():
            yield from _convolution(name.partition(".")[0], shape, dtype)
        for shape in found.values():
            if shape.narrow > CHANNELS:
                yield from _batch_norm(shape, dtype)


def _convolution(network: str, shape: Shape, dtype: torch.dtype) -> Iterator[Row]:
    ends = (shape.wide, shape.narrow) if shape.transposed else (shape.narrow, shape.wide)
    sides = (shape.side, 2 * shape.side) if shape.transposed else (2 * shape.side, shape.side)
    title = f"{network} {ends[0]}->{ends[1]}, {sides[0]}x{sides[0]}->{sides[1]}x{sides[1]}"
    in_float32 = float32_passes(shape.side) if shape.transposed and shape.narrow > CHANNELS else frozenset()
    for name, (convolution, product) in shape.passes(dtype).items():
        times = fastest(convolution), fastest(product)
        faster = shape.side <= LARGEST and times[1] < GAIN * times[0]
        chosen = faster if dtype == torch.bfloat16 else name in in_float32
        bare = _bare(shape, name, dtype)
        yield Row(title, _name(dtype), TITLES[name], 1e3 * times[0], 1e3 * times[1], 1e3 * bare, chosen)


def _bare(shape: Shape, name: Pass, dtype: torch.dtype) -> float:
    """Seconds of a product of as many operations, with the sizes of our products' sides."""
    pixels, patch, wide = shape.rows * shape.side**2, 16 * shape.narrow, shape.wide
    enlarging = (name == "forward") == shape.transposed
    sizes = (wide, pixels, patch) if name == "weight" else (pixels, wide, patch) if enlarging else (pixels, patch, wide)
    left, right = torch.randn(sizes[:2]).to(dtype), torch.randn(sizes[1:]).to(dtype)
    return fastest(lambda: left @ right)


def _batch_norm(shape: Shape, dtype: torch.dtype) -> Iterator[Row]:
    channels, side = (shape.narrow, 2 * shape.side) if shape.transposed else (shape.wide, shape.side)
    images, grad_output = (
        torch.randn(shape.rows, channels, side, side).to(dtype, memory_format=torch.channels_last) for _ in range(2)
    )
    layer, title = nn.BatchNorm2d(channels), f"BatchNorm of {channels} at {side}x{side}"
    images.requires_grad_()
    yield Row(title, _name(dtype), "forward", 1e3 * fastest(lambda: layer(images)))
    out = layer(images)
    inputs = (images, *layer.parameters())
    seconds = fastest(lambda: torch.autograd.grad(out, inputs, grad_output, True))
    yield Row(title, _name(dtype), "backward", 1e3 * seconds)


def _name(dtype: torch.dtype) -> str:
    return "bf16" if dtype == torch.bfloat16 else "float32"
