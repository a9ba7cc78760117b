"""The number of operations of a training iteration, by layer, and the rate that a device can reach.

A multiplication and an addition are two operations. Only convolutions are counted: BatchNorm, activations and Adam take
less than one percent of the operations.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from benchmarks.measure.timing import timed
from trainer.gan.dcgan import WIDEST
from trainer.gan.networks import levels


def forward(size: int, channels: int, z_dim: int, features_g: int, features_d: int) -> dict[str, dict[str, int]]:
    """Multiplications per image in the forward pass of each layer of ``generator`` and ``discriminator``.

    These are DCGAN's with transposed convolutions or nearest-neighbour upsampling.
    """
    wide = [features_g * min(2**level, WIDEST) for level in range(levels(size), 0, -1)] + [channels]
    narrow = [channels] + [features_d * 2**level for level in range(levels(size))]
    up = {f"{z_dim} -> {wide[0]} at 4x4": z_dim * wide[0] * 16}
    for level, (before, after) in enumerate(pairwise(wide)):
        up[f"{before} -> {after} at {8 << level}x{8 << level}"] = before * after * 16 * (4 << level) ** 2
    down = {}
    for level, (before, after) in enumerate(pairwise(narrow)):
        side = size >> level + 1
        down[f"{before} -> {after} at {side}x{side}"] = before * after * 16 * side**2
    down[f"{narrow[-1]} -> 1"] = narrow[-1] * 16
    return {"generator": up, "discriminator": down}


def iteration(layers: dict[str, dict[str, int]]) -> int:
    """Operations per image of one iteration, which is one discriminator step and one generator step.

    The backward pass of a layer costs twice its forward pass. It costs only once where the gradient of the input is not
    needed (latents, real images, and fakes in the discriminator's step), or the gradient of the weights (those of the
    discriminator in the generator's step).
    """
    g, d = (list(layers[name].values()) for name in ("generator", "discriminator"))
    generator = 3 * sum(g) - g[0]
    discriminator_step = 2 * (3 * sum(d) - d[0])
    discriminator_in_generator_step = 2 * sum(d)
    return 2 * (generator + discriminator_step + discriminator_in_generator_step)


def matrix_product_rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """Operations per second of a plain matrix product on ``device``; the best of ``rounds``."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(timed(lambda right: a @ right, b, 1) for _ in range(rounds + 1))
