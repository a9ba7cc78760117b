"""Settings that change during a run, as a function of the position: nothing of them is saved, and a resume is exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.config import Config


@dataclass(frozen=True)
class Settings:
    """Settings at one position, named as in ``trainer.recipe.Schedule``."""

    lr_g: float
    lr_d: float
    beta2: float
    r1: float
    r2: float
    ema_images: float
    augment: float  # probability


def settings(config: Config, position: int) -> Settings:
    """The settings of ``config`` after ``position`` real images."""
    optim, penalty = config.optim, config.penalty
    start = {"lr_g": optim.lr_g, "lr_d": optim.lr_d, "beta2": optim.beta2, "r1": penalty.r1,
             "r2": penalty.r2, "ema_images": config.ema_images, "augment": config.augment.probability}  # fmt: skip
    images, ends = config.schedule.images, config.schedule.ends()
    return Settings(**start | {name: cosine(start[name], end, position, images) for name, end in ends.items()})


def cosine(start: float, end: float, position: int, images: int) -> float:
    """Half a cosine from ``start`` at position 0 to ``end``, which is reached after ``images`` images and kept."""
    weight = (1 - math.cos(math.pi * min(1.0, position / images))) / 2
    return start * (1 - weight) + end * weight
