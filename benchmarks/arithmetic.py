"""Does latent arithmetic do what the DCGAN paper's figure 7 shows, on faces whose attributes are known?

Two classifiers learn from the drawn faces and their stored attributes what smiling is, and what another attribute is.
They sort the run's samples; then, many times over: the mean of three that smile, less that of three neutral ones, plus
that of three neutral ones with the other attribute, with variations. How many results smile, how many keep the
attribute, and how many would do so by chance? Chance is the share among plain samples, and, for sums as large, that
among neutral ones with the other attribute plus and minus three random samples.

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
from shards.common.errors import InputError
from shards.loading.loader import normalise
from trainer.cli import conclude
from trainer.explore.latents import VARIATIONS, add, variations
from trainer.folder.load_run import LoadedRun, load_run
from trainer.gan.dcgan import DcganDiscriminator
from trainer.gan.networks import initialise
from trainer.samples import fixed_latents, generate

CONCEPT, POOL = 3, 40
"""Samples averaged, as in the paper, out of so many: people pick the clear cases of a concept too."""


@dataclass(frozen=True)
class Arguments:
    """Shares of results that smile, against chance."""

    run: Positional[Path] = Path("runs/faces")
    """A run on drawn faces."""
    shards: Path | None = None
    """The faces it was trained on; as its config says unless given."""
    other: Literal["man", "woman", "glasses", "beard"] = "man"
    """The attribute that the result should have beside smiling."""
    samples: int = 2048
    """Samples to choose from."""
    trials: int = 200
    """Sums, each with 8 variations."""
    images: int = 4096
    """Drawn faces for the classifiers; a tenth is kept to test them."""
    seed: int = 0
    json: Path | None = None
    """Write the figures here too, for programs."""


@dataclass(frozen=True)
class Figures:
    """Shares in [0, 1]; results counts each trial's sum and its variations."""

    accuracy_smiling: float
    """Of the classifier, on drawn faces that it has not seen."""
    accuracy_other: float
    results: int
    smiling: float
    """Of the results."""
    other: float
    both: float
    plain_smiling: float
    """Of the run's samples."""
    plain_both: float
    random_smiling: float
    """Of sums with random samples in place of the smiling and the neutral ones."""
    random_both: float


def read_faces(folder: Path, count: int, names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``count`` images, float32 (n, 3, size, size) in [-1, 1], and attributes ``names``, (n, names).

    Raises:
        InputError: there are no images, or not all have these attributes.
    """
    images, truths = [], []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:  # not webdataset, which leaves it open
            for member in tar:
                data = tar.extractfile(member)
                if data and member.name.endswith(".json"):
                    facts = json.load(data)
                    truths += [[float(facts[name]) for name in names]] if facts.keys() >= {*names} else []
                elif data and member.name.endswith((".jpg", ".png")):
                    images.append(np.asarray(Image.open(data)))
    if not images or len(images) != len(truths):
        raise InputError(f"{folder} holds no drawn faces with their attributes. Give --shards, made by `build faces`.")
    return normalise(torch.from_numpy(np.stack(images[:count])), torch.float32), torch.tensor(truths[:count])


def train_classifier(images: torch.Tensor, truths: torch.Tensor, seed: int, epochs: int = 3) -> DcganDiscriminator:
    """A small network of the discriminator's shape: images to logits of a binary attribute, in ``eval`` mode."""
    network = DcganDiscriminator(images.shape[-1], images.shape[1], 8)
    initialise(network, seed)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=shuffle).split(64):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(network(images[rows]), truths[rows]).backward()
            optimizer.step()
    return network.eval()


@dataclass(frozen=True)
class Judge:
    """Draws latents and tells what the two classifiers see."""

    loaded: LoadedRun
    classifiers: tuple[DcganDiscriminator, DcganDiscriminator]

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2) of smiling and of the other attribute, for latents (n, z_dim)."""
        images = generate(self.loaded.generator, latents)
        return torch.stack([torch.cat([net(part) for part in images.split(64)]) for net in self.classifiers], 1)


def surest(latents: torch.Tensor, seen: torch.Tensor, called: torch.Tensor) -> torch.Tensor:
    """Of ``latents`` (n, z_dim) those that are ``called`` (n,) so; the ``POOL`` that the classifiers are surest of.

    Raises:
        InputError: they are too few to average.
    """
    margins = seen.abs().amin(1)[called]
    if len(margins) < CONCEPT:
        raise InputError(f"Only {len(margins)} samples show one of the concepts. Train longer, or raise --samples.")
    return latents[called][margins.argsort(descending=True)[:POOL]]


def sums(pools: tuple[torch.Tensor, ...], trials: int, seed: int) -> Iterator[torch.Tensor]:
    """Of each trial, its result and variations (9, z_dim): three of the first pool - three of the second + three of the
    third.
    """
    rng = np.random.default_rng(seed)
    for trial in range(trials):
        means = torch.stack([pool[rng.choice(len(pool), CONCEPT, replace=False)].mean(0) for pool in pools])
        result = add(means, "+-+")
        yield torch.cat([result[None], variations(result, trial, VARIATIONS)])


def measure(loaded: LoadedRun, arguments: Arguments) -> Figures:
    """Train the classifiers, sort the samples, add them up, and count."""
    folder = arguments.shards or Path(loaded.config.data.shards)
    images, truths = read_faces(folder, arguments.images, ("smiling", arguments.other))
    kept = len(images) // 10
    nets = [train_classifier(images[kept:], truths[kept:, column], column) for column in (0, 1)]
    with torch.no_grad():
        right = [((net(images[:kept]) > 0) == (truths[:kept, column] > 0)) for column, net in enumerate(nets)]
    judge = Judge(loaded, (nets[0], nets[1]))
    latents = fixed_latents(arguments.seed, arguments.samples, loaded.config.model.z_dim)
    seen = judge(latents)
    smiling, other = (seen > 0).T
    happy, neutral, aim = (
        surest(latents, seen, called) for called in (smiling & ~other, ~smiling & ~other, ~smiling & other)
    )
    results = judge(torch.cat([*sums((happy, neutral, aim), arguments.trials, arguments.seed)])) > 0
    random = judge(torch.cat([*sums((latents, latents, aim), arguments.trials, arguments.seed)])) > 0

    def share(truths: torch.Tensor) -> float:
        return truths.float().mean().item()

    return Figures(
        accuracy_smiling=share(right[0]),
        accuracy_other=share(right[1]),
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
    """Measure, print the table, write the JSON."""
    loaded = load_run(arguments.run)
    figures = measure(loaded, arguments)
    print(f"{loaded.checkpoint}, {describe_machine()}")
    for name, value in asdict(figures).items():
        print(f"{name:<18}{value:.3f}" if isinstance(value, float) else f"{name:<18}{value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**asdict(arguments), **asdict(figures)}, indent=1, default=str))


def main() -> int:
    """Parse, run, and turn what went wrong into one line and an exit code."""
    return conclude(lambda: run(tyro.cli(Arguments, description=__doc__)))


if __name__ == "__main__":
    sys.exit(main())
