"""Everything a run can be told, as frozen dataclasses; the presets; the command line made of them by tyro."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from shards.common.errors import InputError
from shards.common.urls import redact

Loss = Literal["non-saturating", "minimax"]
Kind = Literal["dcgan", "mlp"]
Switch = Annotated[
    bool,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="true|false",
        instance_from_str=lambda words: words[0] == "true",
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value).lower()],
        choices=("true", "false"),
    ),
    tyro.conf.FlagConversionOff,
]


@dataclass(frozen=True)
class Data:
    """The stream of real images."""

    shards: str = "data/faces64"
    """Folder or URL that holds manifest.json, its index and the tars; see `python -m shards build --help`."""
    workers: int = 1
    """Loader processes per rank. One decodes about 10,000 images/s; 0 decodes between the steps."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2."""
    strict: bool = False
    """Stop at the first sample that does not decode, instead of taking its neighbour in the order."""
    max_bad: float = 0.001
    """Stop when more than this share of the samples did not decode."""
    cache: Path | None = None
    """Folder on this node for what comes from a URL; shardgan-cache-UID in the temporary folder unless given."""
    cache_gb: float = 16.0
    """Most GiB to keep there. As much as the data spares the network every epoch but the first."""
    audit: Path | None = None
    """Folder for rank-R.jsonl, which names the samples that each rank trained on in each step."""


@dataclass(frozen=True)
class Model:
    """The networks; image size and channels come from the shards."""

    kind: Kind = "dcgan"
    """Architecture of both networks. dcgan: convolutions (Radford et al., arXiv 1511.06434). mlp: fully connected, the
    vanilla GAN (Goodfellow et al., arXiv 1406.2661)."""
    z_dim: int = 100
    """Dimensions of a latent."""
    features_g: int = 64
    """Width of the generator: its narrowest hidden layer has twice as many channels."""
    features_d: int = 64
    """Width of the discriminator: channels of its first layer."""
    bn_init_mean: float = 1.0
    """Mean of BatchNorm's initial weights. The tutorial writes 0, which takes several hundred steps longer."""
    sync_bn: Switch = True
    """BatchNorm over the global batch on more than one rank, as one large device would compute it."""


@dataclass(frozen=True)
class Optim:
    """Adam, for both networks."""

    lr_g: float = 2e-4
    """Learning rate of the generator."""
    lr_d: float = 2e-4
    """Learning rate of the discriminator."""
    beta1: float = 0.5
    """Decay of the gradient's average."""
    beta2: float = 0.999
    """Decay of the squared gradient's average."""


@dataclass(frozen=True)
class Checkpoints:
    """Where a run goes on after it was stopped or killed."""

    every: int = 500
    """Steps between checkpoints; one is also written at the end and on leaving."""
    keep: int = 3
    """Newest checkpoints to keep."""


@dataclass(frozen=True)
class Samples:
    """The grid of images from fixed latents."""

    every: int = 250
    """Steps between grids; 0 for none but the first and the last."""
    count: int = 64
    """Images in the grid."""


@dataclass(frozen=True)
class Tracking:
    """Where people watch the run: Weights & Biases or TensorBoard. metrics.jsonl is always written."""

    board: Literal["wandb", "tensorboard"] = "wandb"
    """tensorboard writes event files into the run folder and needs the extra of that name."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Of W&B. auto: online when an API key is configured, else offline. It never asks. disabled: no board at all."""
    project: str = "shardgan"
    """W&B project that the run belongs to."""
    artifacts: bool = False
    """Log to W&B, as artifacts, each checkpoint and, when the run is done, its exported generator. Their size again in
    wandb's staging folder, and over the network."""


@dataclass(frozen=True)
class Config:
    """Train a DCGAN on image shards. The same command again goes on where the run stopped."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    samples: Samples = field(default_factory=Samples)
    tracking: Tracking = field(default_factory=Tracking)
    out: Path = Path("runs/faces")
    """Run folder: config, status, metrics, checkpoints, samples."""
    batch_size: int = 128
    """Global batch; must divide by the number of ranks."""
    steps: int | None = None
    """Train for this many steps."""
    epochs: float | None = None
    """Train for this many passes over the data, rounded up to a whole step. Give this or --steps."""
    seed: int = 0
    """Decides the weights at the start, the order of the data and the noise."""
    loss: Loss = "non-saturating"
    """The generator's loss: -log D(G(z)), or log(1 - D(G(z)))."""
    d_steps: int = 1
    """Discriminator steps per generator step, each on a batch of its own."""
    ema_images: int = 20_000
    """Half-life, in images, of the average of the generator's weights; 0 for no averaging."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of weights and arithmetic; mixed precision is accelerate's: --mixed_precision before the script's name."""
    threads: int = 0
    """CPU threads per rank when training on the CPU; 0 shares the cores among the ranks of a machine."""
    tf32: Switch = True
    """On a GPU, round the factors of float32 products to TF32's 10 bits of mantissa, for several times the rate."""
    cuda_graphs: bool = False
    """On one GPU, record the iteration as a CUDA graph and replay it, which spares the host its launches and takes the
    device's memory twice; steps that report (--log-every) run as usual. Off until somebody has measured it:
    benchmarks/step.py does."""
    log_every: int = 25
    """Steps between lines of metrics. Each costs one wait for the device."""
    dry_run: bool = False
    """Print what would run (config, parameters, ranks, precision, steps, disk) and stop."""
    default_steps: tyro.conf.Suppress[int] = 500
    """The preset's length, where neither --steps nor --epochs is given."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise InputError("--steps and --epochs both say how long to train: give one of the two.")
        if self.tracking.artifacts and self.tracking.board != "wandb":
            raise InputError("--tracking.artifacts needs --tracking.board wandb: TensorBoard stores no files.")
        for flag, value, least in (
            ("--batch-size", self.batch_size, 1),
            ("--steps", self.steps, 1),
            ("--d-steps", self.d_steps, 1),
            ("--data.workers", self.data.workers, 0),
            ("--model.z-dim", self.model.z_dim, 1),
            ("--model.features-g", self.model.features_g, 1),
            ("--model.features-d", self.model.features_d, 1),
            ("--checkpoint.every", self.checkpoint.every, 1),
            ("--checkpoint.keep", self.checkpoint.keep, 1),
            ("--samples.every", self.samples.every, 0),
            ("--samples.count", self.samples.count, 1),
            ("--ema-images", self.ema_images, 0),
            ("--threads", self.threads, 0),
            ("--log-every", self.log_every, 1),
            ("--seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise InputError(f"{flag} is {value}; it must be at least {least}.")
        for flag, rate, below in (
            ("--optim.lr-g", self.optim.lr_g, math.inf),
            ("--optim.lr-d", self.optim.lr_d, math.inf),
            ("--optim.beta1", self.optim.beta1, 1.0),
            ("--optim.beta2", self.optim.beta2, 1.0),
        ):
            if not 0 <= rate < below:
                raise InputError(f"{flag} is {rate}; it must be at least 0 and less than {below}.")
        if not 0 < self.data.cache_gb < math.inf:
            raise InputError(f"--data.cache-gb is {self.data.cache_gb}; it must be more than 0.")
        if not 0 <= self.data.max_bad <= 1:
            raise InputError(f"--data.max-bad is {self.data.max_bad}; it must be a share from 0 to 1.")
        if self.epochs is not None and not (0 < self.epochs < math.inf):
            raise InputError(f"--epochs is {self.epochs}; it must be more than 0.")
        if self.seed >= 2**63:
            raise InputError(f"--seed is {self.seed}; it must be less than 2**63.")

    def remaining_steps(self, step: int, position: int, samples: int) -> int:
        """Steps still to go on a data set of ``samples`` images; counted in images for --epochs, so that the batch may
        change.
        """
        if self.epochs is None:
            return max(0, (self.steps or self.default_steps) - step)
        return max(0, math.ceil((self.epochs * samples - position) / (self.batch_size * self.d_steps)))


FREE = ("data.shards", "data.workers", "data.cache", "data.cache_gb", "data.audit", "data.strict", "data.max_bad",
        "checkpoint.", "samples.", "tracking.", "out", "batch_size", "steps", "epochs", "threads", "log_every",
        "dry_run", "default_steps", "model.sync_bn", "tf32", "cuda_graphs")  # fmt: skip
"""What may differ when a run goes on: where it runs and reports, how long, and how it is cut into batches, ranks and
workers. The data are compared by their digest."""


OF_A_NODE = ("data.shards", "data.workers", "data.cache", "data.cache_gb", "threads")
"""What may differ between the ranks of one run: shards may be staged to a node's own disk."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field under its dotted name, YAML-ready."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{entry.name}.")
        else:
            # Redacted here: what is flat goes into files, onto terminals and to W&B.
            flat[prefix + entry.name] = redact(str(value)) if isinstance(value, str | Path) else value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Which fields of two flat configs make them different runs: ``name: old -> new``.

    A field that ``old`` lacks had its default: an earlier version did not know it.
    """
    old = {**flatten(Config()), **old}
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if not name.startswith(FREE) and old.get(name) != new.get(name)
    ]


PRESETS: dict[str, tuple[str, Config]] = {
    "faces": (
        "The default: faces that shardgan draws itself on first use, in networks small enough for two CPU cores.\n\n"
        "Example: accelerate launch trainer/run.py faces --seed 1 --out runs/other-faces",
        Config(
            model=Model(features_g=16, features_d=16),
            optim=Optim(lr_g=1e-3, lr_d=4e-4),  # two rates (TTUR, arXiv 1706.08500): sharp faces in minutes, not hours
            batch_size=32,
            checkpoint=Checkpoints(every=200),
            samples=Samples(every=100),
            default_steps=480,
        ),
    ),
    "mnist": (
        "MNIST's digits, one channel, 5 epochs.\n\nExample: accelerate launch trainer/run.py mnist --epochs 1",
        Config(data=Data(shards="data/mnist32"), out=Path("runs/mnist"), default_steps=2344),
    ),
    "celeba": (
        "CelebA, 64x64, mirrored, 25 epochs.\n\n"
        "Example: accelerate launch trainer/run.py celeba --data.shards data/flowers64 --out runs/flowers",
        Config(data=Data(shards="data/celeba64", workers=4, flip=True), out=Path("runs/celeba"), default_steps=39_571),
    ),
    "lsun": (
        "LSUN bedrooms, 64x64, one epoch of 3 million.\n\nExample: accelerate launch trainer/run.py lsun --epochs 1",
        Config(data=Data(shards="data/lsun64", workers=4), out=Path("runs/lsun"), default_steps=23_696),
    ),
}


def parse(arguments: Sequence[str] | None = None, *, quiet: bool = False) -> tuple[str, Config]:
    """The command line as (preset, config); without a preset it is ``faces``.

    Prints help or a usage error and raises ``SystemExit``, silently if ``quiet``. Raises ``InputError`` for values that
    contradict each other.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "faces")
    if words[0] not in PRESETS and not words[0].startswith("-"):
        raise InputError(f"There is no preset {words[0]!r}. The first word is one of {', '.join(PRESETS)}, or a flag.")
    union = tyro.extras.subcommand_type_from_defaults(
        {name: config for name, (_, config) in PRESETS.items()},
        {name: text for name, (text, _) in PRESETS.items()},
    )
    config = tyro.cli(
        union,
        prog="trainer/run.py",
        args=words,
        description="Train a DCGAN on image shards. `run.py PRESET --help` lists every flag; no preset means `faces`."
        "\n\n"
        "Example: accelerate launch --config_file accelerate_config.yaml trainer/run.py mnist --epochs 1",
        console_outputs=not quiet,
    )
    return words[0], config
