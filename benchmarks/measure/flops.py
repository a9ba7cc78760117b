"""The arithmetic of one training iteration, layer by layer, and what the device could do of it.

A multiplication and an addition are two operations. Convolutions only: BatchNorm, activations and Adam are below one
percent of it.
"""

from __future__ import annotations

import time
from itertools import pairwise

import torch

from trainer.gan.networks import levels


def forward(size: int, channels: int, z_dim: int, features_g: int, features_d: int) -> dict[str, dict[str, int]]:
    """Multiplications of one image's way through each layer of the ``generator`` and of the ``discriminator``."""
    wide = [features_g * 2**level for level in range(levels(size), 0, -1)] + [channels]
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
    """Operations of one iteration per image: one discriminator step, one generator step.

    Backward costs a layer twice its forward, but once where nobody wants the gradient of what came in (latents, real
    images, and fakes in the discriminator's step) or of the weights (the discriminator's, in the generator's step).
    """
    g, d = (list(layers[name].values()) for name in ("generator", "discriminator"))
    generator = 3 * sum(g) - g[0]
    discriminator_step = 2 * (3 * sum(d) - d[0])
    judged = 2 * sum(d)
    return 2 * (generator + discriminator_step + judged)


def rate(device: torch.device, dtype: torch.dtype, rounds: int = 5) -> float:
    """Operations a second of a plain matrix product on ``device``: the best of ``rounds``."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):
        synchronise(device)
        began = time.perf_counter()
        a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def synchronise(device: torch.device) -> None:
    """Wait for what ``device`` still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
