"""Which passes of which layers are matrix products when a CPU trains in bf16.

Whether oneDNN's convolution or a product is faster depends on the layer and on the processor. So a run measures both
once, at its start, and its checkpoints record the choice: a resumed run on the same kind of machine computes the same
bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainer.gan.kernels.nearest_convolution import NearestDoubling
from trainer.gan.kernels.products import Pass, convolution_gradients, convolve, down, up, weight_gradient
from trainer.gan.kernels.strided_convolution import Halving
from trainer.gan.kernels.transposed_convolution import Doubling
from trainer.gan.networks import Discriminator, Generator, has_batch_norm

LARGEST = 16  # height and width of the smaller images of a layer; from 32x32, oneDNN is as fast as products or faster
GAIN = 0.9  # a product is chosen if it takes less than this share of the convolution's time
ROUNDS = 2

Layer = Doubling | NearestDoubling | Halving
Choice = dict[str, list[Pass]]  # the passes that are products, by the name of the layer
Work = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """A layer between ``small`` images (rows, wide, side, side) and large ones (rows, narrow, 2 side, 2 side)."""

    rows: int
    wide: int
    narrow: int
    side: int
    transposed: bool  # from small to large

    def passes(self, dtype: torch.dtype) -> dict[Pass, tuple[Work, Work]]:
        """Each pass as a convolution and as a product, on random numbers."""
        small, large, weight = (
            torch.randn(shape).to(dtype, memory_format=torch.channels_last)
            for shape in (
                (self.rows, self.wide, self.side, self.side),
                (self.rows, self.narrow, 2 * self.side, 2 * self.side),
                (self.wide, self.narrow, 4, 4),
            )
        )
        images, grad_output = (small, large) if self.transposed else (large, small)
        forward, backward = (up, down) if self.transposed else (down, up)

        def gradients(*wanted: bool) -> object:
            return convolution_gradients(grad_output, images, weight, [*wanted], transposed=self.transposed)

        return {
            "forward": (
                lambda: convolve(images, weight, transposed=self.transposed),
                lambda: forward(images, weight),
            ),
            "images": (lambda: gradients(True, False), lambda: backward(grad_output, weight)),
            "weight": (lambda: gradients(False, True), lambda: weight_gradient(small, large)),
        }


def measure(generator: Generator, discriminator: Discriminator, size: int, channels: int, rows: int) -> Choice:
    """The passes that are faster as products in bf16, for steps on ``rows`` images (channels, size, size).

    Takes as long as about five steps.
    """
    return {
        name: [
            name
            for name, (convolution, product) in shape.passes(torch.bfloat16).items()
            if fastest(product) < GAIN * fastest(convolution)
        ]
        for name, shape in shapes(generator, discriminator, size, channels, rows).items()
        if shape.side <= LARGEST
    }


def choose(generator: Generator, discriminator: Discriminator, choice: Mapping[str, list[Pass]]) -> None:
    """Make the passes in ``choice`` products under autocast, and all others convolutions."""
    for name, layer in _layers(generator, discriminator).items():
        layer.products = frozenset(choice.get(name, ()))


@torch.no_grad()
def shapes(generator: Generator, discriminator: Discriminator, size: int, channels: int, rows: int) -> dict[str, Shape]:
    """The layers of both networks that can be products, by name, as a step on ``rows`` images sees them.

    Without BatchNorm, the discriminator gets real and generated images in one batch, so its layers see twice as many.
    In the generator's step they see ``rows``, but compute no gradient of their weights.
    """
    found, device = {}, next(generator.parameters()).device
    judged = rows if has_batch_norm(discriminator) else 2 * rows

    def note(name: str) -> Callable[[Any, tuple[torch.Tensor]], None]:
        def hook(layer: Layer, inputs: tuple[torch.Tensor]) -> None:
            transposed, side = not isinstance(layer, Halving), inputs[0].shape[-1]
            ends = (layer.in_channels, layer.out_channels)
            wide, narrow = ends if transposed else ends[::-1]
            count, small_side = (rows, side) if transposed else (judged, side // 2)
            found[name] = Shape(count, wide, narrow, small_side, transposed)

        return hook

    layers = _layers(generator, discriminator)
    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    networks = (generator, discriminator)
    modes = [network.training for network in networks]
    labels = torch.zeros(1, dtype=torch.int64, device=device) if generator.classes else None
    dtype = next(generator.parameters()).dtype
    generator.eval()(torch.zeros(1, generator.z_dim, device=device, dtype=dtype), labels)
    discriminator.eval()(torch.zeros(1, channels, size, size, device=device, dtype=dtype), labels)
    for hook in hooks:
        hook.remove()
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)
    return found


def fastest(work: Work, rounds: int = ROUNDS) -> float:
    """Seconds of ``work``: the least of ``rounds``, after one that is not counted."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _layers(generator: Generator, discriminator: Discriminator) -> dict[str, Layer]:
    return {
        f"{title}.{name}": layer
        for title, network in (("generator", generator), ("discriminator", discriminator))
        for name, layer in network.named_modules()
        if isinstance(layer, Layer)
    }
