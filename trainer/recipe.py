"""Settings of how the networks learn: the optimizers, gradient penalties, and what changes during a run."""

from __future__ import annotations

from dataclasses import dataclass

from shards.common.errors import InputError
from shards.common.names import printable

AUGMENTATIONS = ("color", "translation", "cutout")


@dataclass(frozen=True)
class Optim:
    """Adam for both networks."""

    lr_g: float = 2e-4
    """Learning rate of the generator."""
    lr_d: float = 2e-4
    """Learning rate of the discriminator."""
    beta1: float = 0.5
    """Decay rate of the average gradient."""
    beta2: float = 0.999
    """Decay rate of the average squared gradient."""


@dataclass(frozen=True)
class Penalty:
    """Gradient penalties of the discriminator, which need one without BatchNorm."""

    r1: float = 0.0
    """Weight gamma of R1: gamma/2 times the squared norm of the gradient of D's logit for a real image (arXiv
    1801.04406). Without it, a discriminator that wins leaves no direction to the generator. Usual at 64x64 are 0.2 to
    2. Losses but the relativistic one are means of two parts here: halve a gamma that was chosen for their sum."""
    r2: float = 0.0
    """Weight of R2, the same at generated images. The relativistic loss needs both to converge (arXiv 2501.05441)."""
    every: int = 1
    """Steps from one with penalties to the next. Their weight is multiplied by it, so that the mean is the same. Steps
    without them take less time (lazy regularisation, arXiv 1912.04958)."""


@dataclass(frozen=True)
class Augment:
    """Differentiable augmentation of real and generated images, for data sets of a few thousand (arXiv 2006.10738)."""

    policy: str = "none"
    """Comma-separated, out of color (brightness, saturation, contrast), translation (up to an eighth) and cutout (a
    square of half the size). The discriminator hardly sees an image as it is, so it learns less of a small data set by
    heart; with many images, it only learns more slowly."""
    probability: float = 1.0
    """Probability of each augmentation of an image; 1 in DiffAugment. The lower it is, the less likely the generator
    learns to augment (arXiv 2006.06676), and the more images the discriminator sees as they are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Augmentations of the policy."""
        return () if self.policy == "none" else tuple(self.policy.split(","))

    def check(self) -> None:
        """Raise ``InputError`` if the policy names no augmentation, or one twice."""
        if not set(self.names) <= set(AUGMENTATIONS) or len(set(self.names)) < len(self.names):
            raise InputError(
                f"--augment.policy is {printable(self.policy)}; it must be none, or a comma-separated choice of "
                f"{', '.join(AUGMENTATIONS)}."
            )


@dataclass(frozen=True)
class Schedule:
    """Settings that change along half a cosine, from their own flag to the value here (as in arXiv 2501.05441)."""

    images: int = 0
    """Real images after which the values here are reached and kept. 0: nothing changes."""
    lr_g: float | None = None
    """Last value of --optim.lr-g. Smaller steps at the end let the images settle; R3GAN lowers it to a quarter."""
    lr_d: float | None = None
    """Last value of --optim.lr-d."""
    beta2: float | None = None
    """Last value of --optim.beta2. Early gradients say little of later ones, so R3GAN goes from 0.9 to 0.99."""
    r1: float | None = None
    """Last value of --penalty.r1. R3GAN lowers both weights to a tenth."""
    r2: float | None = None
    """Last value of --penalty.r2."""
    ema_images: int | None = None
    """Last value of --ema-images."""
    augment: float | None = None
    """Last value of --augment.probability."""

    def ends(self) -> dict[str, float]:
        """Names and last values of the settings that change."""
        return {name: end for name, end in vars(self).items() if name != "images" and end is not None}

    def check(self, *, ema_images: int, augmented: bool, cuda_graphs: bool) -> None:
        """Raise ``InputError`` if the fields contradict each other, or those of the run."""
        changed = self.ends()
        if changed and not self.images:
            flag = f"--schedule.{next(iter(changed))}".replace("_", "-")
            raise InputError(f"{flag} needs --schedule.images, the number of real images after which it is reached.")
        if self.images and not changed:
            raise InputError("--schedule.images needs a value to reach, such as --schedule.lr-g.")
        if "ema_images" in changed and not ema_images:
            raise InputError("--schedule.ema-images needs an average from the start: --ema-images must be at least 1.")
        if "augment" in changed and not augmented:
            raise InputError("--schedule.augment needs --augment.policy, such as color,translation,cutout.")
        if cuda_graphs and "beta2" in changed:
            raise InputError("--schedule.beta2 has no effect on a CUDA graph. Omit --cuda-graphs.")
