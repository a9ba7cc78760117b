"""Named configs, and the command line of the trainer, which picks one and overrides its fields."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro

from shards.common.command import read_words
from shards.common.errors import InputError
from trainer.config import Checkpoints, Config, Data, Evaluation, Model, Samples
from trainer.flags import normalise
from trainer.recipe import Augment, Optim, Penalty

PHOTOGRAPHS = Config(
    model=Model(norm_d="none", coarse_d=True, upsampling="nearest"),
    loss="relativistic",
    penalty=Penalty(r1=1, r2=1, every=8),
    optim=Optim(lr_g=1e-3, lr_d=1e-3, beta1=0, beta2=0.99),
    batch_size=64,
    evaluate=Evaluation(every=5000),
)
"""The recipe of all presets for photographs. Larger batches train faster on GPUs, but learn less from each image."""
PRESETS: dict[str, tuple[str, Config]] = {
    "faces": (
        "The default: faces that shardgan draws on first use, with networks small enough for two CPU cores.\n\n"
        "Example: accelerate launch trainer/run.py faces --seed 1 --out runs/other-faces",
        Config(
            data=Data(workers=0),  # on two cores, a worker's 8 images interrupt the step for longer than they take
            # Latents are short because the faces vary in few attributes: 100 values learn more slowly (docs/log.md).
            model=Model(z_dim=16, features_g=16, features_d=12, norm_d="none", coarse_d=True, upsampling="nearest"),
            loss="relativistic",
            penalty=Penalty(r1=1, r2=1, every=8),
            optim=Optim(lr_g=2e-3, lr_d=2e-3, beta1=0, beta2=0.99),
            batch_size=8,
            checkpoint=Checkpoints(every=600),
            samples=Samples(every=300),
            default_steps=1800,
        ),
    ),
    "mnist": (
        "MNIST digits, one channel, 5 epochs.\n\nExample: accelerate launch trainer/run.py mnist --epochs 1",
        Config(
            data=Data(shards="data/mnist32"),
            model=Model(features_g=32, features_d=32, norm_d="none", upsampling="nearest"),
            loss="relativistic",
            penalty=Penalty(r1=0.3, r2=0.3, every=8),
            optim=Optim(lr_g=2e-3, lr_d=2e-3, beta1=0, beta2=0.99),
            batch_size=64,
            out=Path("runs/mnist"),
            default_steps=4688,
        ),
    ),
    "celeba": (
        "CelebA, 64x64, mirrored, 25 epochs.\n\n"
        "Example: accelerate launch trainer/run.py celeba --data.shards data/flowers64 --out runs/flowers",
        replace(
            PHOTOGRAPHS,
            data=Data(shards="data/celeba64", workers=4, flip=True),
            out=Path("runs/celeba"),
            default_steps=79_141,
        ),
    ),
    "lsun": (
        "LSUN bedrooms, 64x64, one epoch of 3 million.\n\nExample: accelerate launch trainer/run.py lsun --epochs 1",
        replace(
            PHOTOGRAPHS,
            data=Data(shards="data/lsun64", workers=4),
            out=Path("runs/lsun"),
            default_steps=47_392,
        ),
    ),
    "tutorial": (
        "The recipe of the DCGAN tutorial to the letter: MNIST in one channel at 64x64, 5 epochs.\n\n"
        "Example: accelerate launch trainer/run.py tutorial --loss minimax",
        Config(
            data=Data(shards="data/mnist64"),
            model=Model(bn_init_mean=0),
            ema_images=0,
            out=Path("runs/tutorial"),
            default_steps=2344,
        ),
    ),
    "small-data": (
        "A folder of a few thousand images, mirrored and augmented.\n\n"
        "Example: accelerate launch trainer/run.py small-data --data.shards data/flowers64 --out runs/flowers",
        replace(
            PHOTOGRAPHS,
            data=Data(shards="data/images64", workers=4, flip=True),
            augment=Augment("color,translation,cutout"),
            out=Path("runs/small-data"),
            default_steps=20_000,
        ),
    ),
}


def parse(arguments: Sequence[str] | None = None, *, quiet: bool = False) -> tuple[str, Config]:
    """Parses the command line into (preset, config). The default preset is ``faces``.

    Raises:
        SystemExit: after printing help or a usage error, or silently if ``quiet``.
        InputError: the preset is unknown, or values are empty, out of range or contradict each other.
    """
    words = normalise(read_words(arguments))
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "faces")
    if words[0] not in PRESETS and not words[0].startswith("-"):
        raise InputError(f"There is no preset {words[0]!r}. The first word is one of {', '.join(PRESETS)}, or a flag.")
    out = _sweep_folder()
    union = tyro.extras.subcommand_type_from_defaults(
        {name: replace(config, out=out or config.out) for name, (_, config) in PRESETS.items()},
        {name: text for name, (text, _) in PRESETS.items()},
    )
    config = tyro.cli(
        union,
        prog="trainer/run.py",
        args=words,
        description="Train a GAN on image shards. `run.py PRESET --help` lists all flags; the default is `faces`."
        "\n\n"
        "Example: accelerate launch --config_file accelerate_config.yaml trainer/run.py mnist --epochs 1",
        console_outputs=not quiet,
    )
    return words[0], config


def _sweep_folder() -> Path | None:
    """The default run folder of a run that an agent of a W&B sweep starts. A preempted run gets the same one again."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return Path("runs", f"sweep-{sweep}", run) if sweep and run else None
