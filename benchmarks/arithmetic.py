"""Measures whether latent arithmetic works as in the DCGAN paper's figure 7, on faces with known attributes.

Two classifiers learn smiling and another attribute from the drawn faces, and label the samples of a run. Each trial
adds up three means of three latents: smiling - neutral + neutral with the other attribute. The figures are the shares
of results and variations that smile and have the attribute, beside two baselines: the samples themselves, and sums in
which random samples replace the smiling and the neutral ones.

Example: uv run python -m benchmarks.arithmetic runs/faces --other glasses
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image
from torch.nn.functional import binary_cross_entropy_with_logits
from tyro.conf import Positional

from benchmarks.measure.cli import describe_machine
from shards.common.command import read_words
from shards.common.errors import InputError
from shards.format.image import FORMATS
from shards.loading.loader import normalise
from trainer.cli import conclude
from trainer.explore.latents import VARIATIONS, add, variations
from trainer.folder.load_run import LoadedRun, load_run
from trainer.gan.dcgan import DcganDiscriminator
from trainer.gan.networks import initialise
from trainer.samples import fixed_latents, generate

CONCEPT = 3
"""Samples whose latents are averaged, as in the paper."""
POOL = 40
"""Samples to choose them from, those that the classifiers are surest of; people also choose clear cases."""


@dataclass(frozen=True)
class Arguments:
    """Shares of results that smile, beside baselines."""

    run: Positional[Path] = Path("runs/faces")
    """Folder of a run on drawn faces."""
    shards: Path | None = None
    """Drawn faces for the classifiers; if not given, the training data of the run."""
    other: Literal["man", "woman", "glasses", "beard"] = "man"
    """Attribute that the result should have besides smiling."""
    samples: int = 2048
    """Number of samples to choose from."""
    trials: int = 200
    """Number of sums, each with 8 variations."""
    images: int = 4096
    """Number of drawn faces for the classifiers; a tenth of them is for testing."""
    seed: int = 0
    json: Path | None = None
    """Also write the figures to this JSON file."""


@dataclass(frozen=True)
class Figures:
    """Shares in [0, 1], of smiling, of the other attribute, and of both."""

    accuracy_smiling: float
    """Of the classifier, on drawn faces that it was not trained on."""
    accuracy_other: float
    results: int
    """Number of sums and variations."""
    smiling: float
    """Of the results."""
    other: float
    both: float
    plain_smiling: float
    """Of the samples of the run."""
    plain_both: float
    random_smiling: float
    """Of sums with random samples."""
    random_both: float


def read_faces(folder: Path, count: int, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``count`` images, float32 (n, 3, size, size) in [-1, 1], and their attributes ``names``, (n, names).

    Raises:
        InputError: there are no images, or some lack these attributes.
    """
    images, attributes = [], []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:  # webdataset would leave the file open
            for member in tar:
                data = tar.extractfile(member)
                if data and member.name.endswith(".json"):
                    metadata = json.load(data)
                    if metadata.keys() >= {*names}:
                        attributes.append([float(metadata[name]) for name in names])
                elif data and member.name.endswith((".jpg", ".png")):
                    images.append(np.asarray(Image.open(data, formats=FORMATS)))
    if not images or len(images) != len(attributes):
        raise InputError(f"{folder} holds no drawn faces with their attributes. Give --shards, made by `build faces`.")
    return normalise(torch.from_numpy(np.stack(images[:count])), torch.float32), torch.tensor(attributes[:count])


def train_classifier(images: torch.Tensor, labels: torch.Tensor, seed: int, epochs: int = 3) -> DcganDiscriminator:
    """Trains a small discriminator to map images to logits of a binary attribute; returned in ``eval`` mode."""
    network = DcganDiscriminator(images.shape[-1], images.shape[1], 8)
    initialise(network, seed)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=shuffle).split(64):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


@dataclass(frozen=True)
class Labeller:
    """Generates images and classifies them."""

    loaded: LoadedRun
    classifiers: tuple[DcganDiscriminator, DcganDiscriminator]

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2) of smiling and of the other attribute, for latents (n, z_dim)."""
        images = generate(self.loaded.generator, latents)
        return torch.stack([torch.cat([net(part) for part in images.split(64)]) for net in self.classifiers], 1)


def surest(latents: torch.Tensor, logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The ``POOL`` rows of ``latents`` (n, z_dim) in ``mask`` (n,) with the clearest ``logits`` (n, 2).

    Raises:
        InputError: there are too few to average.
    """
    margins = logits.abs().amin(1)[mask]
    if len(margins) < CONCEPT:
        raise InputError(f"Only {len(margins)} samples show one of the concepts. Train longer, or raise --samples.")
    return latents[mask][margins.argsort(descending=True)[:POOL]]


def sums(pools: tuple[torch.Tensor, ...], trials: int, seed: int) -> Iterator[torch.Tensor]:
    """For each trial first - second + third of the ``pools``, by means of three, and its variations: (9, z_dim)."""
    rng = np.random.default_rng(seed)
    for trial in range(trials):
        means = torch.stack([pool[rng.choice(len(pool), CONCEPT, replace=False)].mean(0) for pool in pools])
        result = add(means, "+-+")
        yield torch.cat([result[None], variations(result, trial, VARIATIONS)])


def measure(loaded: LoadedRun, arguments: Arguments) -> Figures:
    """Trains the classifiers, labels the samples, and counts the attributes of the sums."""
    folder = arguments.shards or Path(loaded.config.data.shards)
    images, attributes = read_faces(folder, arguments.images, ("smiling", arguments.other))
    tested = len(images) // 10
    classifiers = [train_classifier(images[tested:], attributes[tested:, column], column) for column in (0, 1)]
    with torch.no_grad():
        predictions = torch.stack([classifier(images[:tested]) > 0 for classifier in classifiers], 1)
    correct = predictions == (attributes[:tested] > 0)
    label = Labeller(loaded, (classifiers[0], classifiers[1]))
    latents = fixed_latents(arguments.seed, arguments.samples, loaded.config.model.z_dim)
    logits = label(latents)
    smiling, other = (logits > 0).T
    masks = (smiling & ~other, ~smiling & ~other, ~smiling & other)
    plus, minus, target = (surest(latents, logits, mask) for mask in masks)
    results = label(torch.cat([*sums((plus, minus, target), arguments.trials, arguments.seed)])) > 0
    random = label(torch.cat([*sums((latents, latents, target), arguments.trials, arguments.seed)])) > 0

    def share(mask: torch.Tensor) -> float:
        return mask.float().mean().item()

    return Figures(
        accuracy_smiling=share(correct[:, 0]),
        accuracy_other=share(correct[:, 1]),
        results=len(results),
        smiling=share(results[:, 0]),
        other=share(results[:, 1]),
        both=share(results.all(1)),
        plain_smiling=share(smiling),
        plain_both=share(smiling & other),
        random_smiling=share(random[:, 0]),
        random_both=share(random.all(1)),
    )


def run(arguments: Arguments) -> None:
    """Measures, prints the table, writes the JSON."""
    loaded = load_run(arguments.run)
    figures = measure(loaded, arguments)
    print(f"{loaded.checkpoint}, {describe_machine()}")
    for name, value in asdict(figures).items():
        print(f"{name:<18}{value:.3f}" if isinstance(value, float) else f"{name:<18}{value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**asdict(arguments), **asdict(figures)}, indent=1, default=str))


def main() -> int:
    """Runs the benchmark and returns its exit code."""
    return conclude(lambda: run(tyro.cli(Arguments, args=read_words(), description=__doc__)))


if __name__ == "__main__":
    sys.exit(main())
