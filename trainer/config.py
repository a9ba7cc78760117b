"""All settings of a run, as frozen dataclasses, and the checks on them."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from shards.common.errors import InputError
from shards.common.names import printable
from shards.common.urls import redact, refuse_url
from trainer.recipe import Augment, Optim, Penalty, Schedule

Loss = Literal["non-saturating", "minimax", "relativistic", "hinge", "least-squares"]
Kind = Literal["dcgan", "mlp", "residual"]
Normalisation = Literal["batch", "none"]
Upsampling = Literal["transposed", "nearest"]
Judge = Literal["fid", "kd-lite0", "kd-labels", "swd"]
"""Scores that can choose the best checkpoint, the preferred one first. Less is better in each."""
LEAST = {"batch_size": 1, "accumulate": 1, "steps": 1, "d_steps": 1, "data.workers": 0, "model.z_dim": 1,
         "model.features_g": 1, "model.features_d": 1, "optim.lr_g": 0, "optim.lr_d": 0, "penalty.r1": 0,
         "penalty.r2": 0, "penalty.every": 1, "schedule.images": 0, "schedule.lr_g": 0, "schedule.lr_d": 0,
         "schedule.r1": 0, "schedule.r2": 0, "schedule.ema_images": 1, "checkpoint.every": 1, "checkpoint.keep": 1,
         "samples.every": 0, "samples.count": 1, "evaluate.every": 0, "evaluate.samples": 0, "ema_images": 0,
         "threads": 0, "log_every": 1, "seed": 0}  # fmt: skip
"""Smallest values of fields by their dotted names."""
BETAS = ("optim.beta1", "optim.beta2", "schedule.beta2")
SHARES = ("data.max_bad", "augment.probability", "schedule.augment")
MIN_SAMPLES = 100  # images of an evaluation; fewer say nothing
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
    """Stop at the first sample that does not decode. Without it, the next sample in the order replaces it."""
    max_bad: float = 0.001
    """Stop when more than this share of the samples does not decode."""
    cache: Path | None = None
    """Folder on this node for data from a URL. Default: shardgan-cache-UID in the temporary folder."""
    cache_gb: float = 16.0
    """Largest size of that cache in GiB. If all data fit, only the first epoch reads from the network.
    What evaluations compute of real images may take as much again."""
    trust_base: bool = False
    """Let the manifest at a URL name tars on other servers, which then receive no credentials over HTTP."""
    audit: Path | None = None
    """Folder for rank-R.jsonl: the samples that each rank trained on in each step."""


@dataclass(frozen=True)
class Model:
    """The networks; image size and channels come from the shards."""

    kind: Kind = "dcgan"
    """Architecture of both networks. dcgan: convolutions (Radford et al., arXiv 1511.06434). residual: residual blocks
    without normalisation, after R3GAN (arXiv 2501.05441); needs --loss relativistic, --penalty.r1 and --penalty.r2, as
    all presets but tutorial have them. mlp: fully connected, the vanilla GAN (Goodfellow et al., arXiv 1406.2661)."""
    z_dim: int = 100
    """Length of a latent vector."""
    features_g: int = 64
    """Width f of the generator. dcgan: 2f to 16f channels at 64x64. residual: f to 8f. mlp: 16f units a layer."""
    features_d: int = 64
    """Width f of the discriminator. dcgan and residual: f to 8f channels at 64x64. mlp: 4f maxout units a layer."""
    norm_d: Normalisation = "batch"
    """dcgan only: normalisation in the discriminator. batch: BatchNorm. none: for gradient penalties, which
    BatchNorm makes wrong."""
    coarse_d: Switch = False
    """dcgan and residual: a second, small part of the discriminator sees the image averaged to 8x8 pixels, with the
    differences between colours enlarged. Without it, a short training loses pale and similar colours. With dcgan, it
    needs --model.norm-d none."""
    upsampling: Upsampling = "transposed"
    """dcgan only: what doubles the size in the generator. transposed: a 4x4 convolution with stride 2. nearest: an
    enlargement and a 3x3 convolution, which leaves no checkerboard in the images and takes as long."""
    conditional: Switch = False
    """Class-conditional networks, for shards with labels: the generator draws images of a given class, and the
    discriminator judges an image as one of its class, by projection (Miyato and Koyama, arXiv 1802.05637)."""
    bn_init_mean: float = 1.0
    """dcgan only: mean of BatchNorm's initial weights. With the tutorial's 0, training needs several hundred
    more steps for the same quality."""
    sync_bn: Switch = True
    """dcgan only: on several ranks, compute BatchNorm over the global batch."""


@dataclass(frozen=True)
class Checkpoints:
    """A run resumes from its newest checkpoint."""

    every: int = 500
    """Steps between checkpoints. One is also written at the end, and when a run is asked to stop."""
    keep: int = 3
    """Number of newest checkpoints to keep."""


@dataclass(frozen=True)
class Samples:
    """Sheets of generated images, always from the same latents."""

    every: int = 250
    """Steps between sheets. 0: only at the start and the end."""
    count: int = 64
    """Images on a sheet."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of the generator during training. `python -m trainer.evaluate` gives more, of any checkpoint."""

    every: int = 0
    """Steps between evaluations; each also writes a checkpoint. 0: only one at the end."""
    samples: int = 1000
    """Images of an evaluation, as many generated as real ones. 0: no evaluation."""
    features: Literal["auto", "pixels", "lite0"] = "auto"
    """auto: lite0 and pixels, or pixels alone without the extra `scores`. lite0: both, or an error."""
    by: Judge | None = None
    """Score that chooses the best checkpoint, which is kept, and tells if the training goes wrong. Default: kd-lite0,
    without it swd, which also stand in for fid and kd-labels: a training computes neither."""


@dataclass(frozen=True)
class Tracking:
    """Weights & Biases or TensorBoard. metrics.jsonl is always written."""

    board: Literal["wandb", "tensorboard"] = "wandb"
    """tensorboard writes event files into the run folder. It needs the extra `tensorboard`."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: W&B is online if an API key is configured, else offline; it never prompts. disabled: no board."""
    project: str | None = None
    """W&B project of the run. Default: WANDB_PROJECT, or that of wandb's settings, or shardgan."""
    alerts: bool = False
    """Send a W&B alert when the training goes wrong, see --on-collapse."""
    artifacts: bool = False
    """Log each checkpoint, and at the end the exported generator, as W&B artifacts. wandb copies them to its staging
    folder and uploads them."""


@dataclass(frozen=True)
class Config:
    """Train a GAN on image shards. The same command again resumes the run."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    penalty: Penalty = field(default_factory=Penalty)
    augment: Augment = field(default_factory=Augment)
    schedule: Schedule = field(default_factory=Schedule)
    checkpoint: Checkpoints = field(default_factory=Checkpoints)
    samples: Samples = field(default_factory=Samples)
    evaluate: Evaluation = field(default_factory=Evaluation)
    tracking: Tracking = field(default_factory=Tracking)
    out: Path = Path("runs/faces")
    """Run folder: config, status, metrics, checkpoints, samples."""
    batch_size: int = 128
    """Global batch size, a multiple of the number of ranks."""
    accumulate: int = 1
    """Gradient accumulation, to save memory: each batch is processed in this number of equal parts, one after another,
    which the ranks share, and their gradients are averaged. The batch size stays the same. BatchNorm normalises each
    part alone, so with it the number stays that of the run; without it, losses change by rounding only."""
    steps: int | None = None
    """Number of steps to train."""
    epochs: float | None = None
    """Number of passes over the data, rounded up to a whole step. Give this or --steps."""
    seed: int = 0
    """Determines the initial weights, the order of the data and the latents."""
    loss: Loss = "non-saturating"
    """non-saturating and minimax: cross-entropy, with -log D(G(z)) or log(1 - D(G(z))) for the generator. relativistic:
    the discriminator compares each real image with a generated one, which keeps the generator from losing parts of the
    data (arXiv 2501.05441); best with both penalties. hinge (arXiv 1705.02894) and least-squares (LSGAN): means of real
    and generated images."""
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    """What to do when the training goes wrong: the discriminator's loss stays 0, the images become alike, or the score
    stays far above its best. rollback continues from the best checkpoint with other latents, at most three times; it
    also does so when the training diverges to NaN."""
    d_steps: int = 1
    """Discriminator steps per generator step, each with its own batch."""
    ema_images: int = 20_000
    """Half-life in images of the moving average of the generator's weights. 0: no average."""
    dtype: Literal["float32", "float64"] = "float32"
    """Type of the weights. For mixed precision, give accelerate launch --mixed_precision before the script."""
    threads: int = 0
    """CPU threads per rank when training on the CPU. 0: the ranks of a machine share its cores."""
    tf32: Switch = True
    """On a GPU, use TF32 for float32 products: 10 bits of mantissa, several times as fast."""
    cuda_graphs: bool = False
    """On one GPU, replay the training step as a CUDA graph. This saves kernel launches and doubles the memory in use.
    Steps that report (--log-every) run as usual. Off by default: not measured yet (benchmarks/step.py does)."""
    log_every: int = 25
    """Steps between reports of metrics. Each report synchronises the device once."""
    dry_run: bool = False
    """Print what would run (config, parameters, ranks, precision, steps, disk space, memory) and exit."""
    default_steps: tyro.conf.Suppress[int] = 500
    """Length of the preset, if neither --steps nor --epochs is given."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise InputError("--steps and --epochs both set the length of the run. Give only one of them.")
        if self.tracking.artifacts and self.tracking.board != "wandb":
            raise InputError("--tracking.artifacts needs --tracking.board wandb: TensorBoard stores no files.")
        if self.tracking.alerts and self.tracking.board != "wandb":
            raise InputError("--tracking.alerts needs --tracking.board wandb: TensorBoard sends no alerts.")
        refuse_url(self.out)
        if self.data.audit:
            refuse_url(self.data.audit)
        if not re.fullmatch(r"[^\ud800-\udfff]*", str(self.out)):  # safetensors could not read the checkpoints
            raise InputError(f"--out is {printable(str(self.out))}, which is not valid UTF-8. Give another name.")
        if self.model.kind == "dcgan" and self.model.coarse_d and self.model.norm_d != "none":
            what, remedy = ["--model.coarse-d", *self.penalty_flags], "--model.no-coarse-d"
            remedy = " ".join([remedy, *(f"{flag} 0" for flag in self.penalty_flags)])
            need = f"need{'' if len(what) > 1 else 's'} --model.norm-d none, not {self.model.norm_d}"
            raise InputError(f"{', '.join(what)} {need}. Add {remedy}.")
        self.augment.check()
        self.schedule.check(
            ema_images=self.ema_images, augmented=bool(self.augment.names), cuda_graphs=self.cuda_graphs
        )
        values = flatten(self)

        def require(valid: bool, name: str, rule: str) -> None:
            if not valid:
                raise InputError(f"--{name.replace('_', '-')} is {values[name]}; it must be {rule}.")

        for name, value in values.items():
            require(not isinstance(value, float) or math.isfinite(value), name, "a finite number")
        for name, least in LEAST.items():
            require(values[name] is None or values[name] >= least, name, f"at least {least}")
        for name in BETAS:
            require(values[name] is None or 0 <= values[name] < 1, name, "at least 0 and less than 1")
        for name in SHARES:
            require(values[name] is None or 0 <= values[name] <= 1, name, "a share from 0 to 1")
        require(self.data.cache_gb > 0, "data.cache_gb", "more than 0")
        require(self.epochs is None or self.epochs > 0, "epochs", "more than 0")
        require(self.seed < 2**63, "seed", "less than 2**63")
        samples = self.evaluate.samples
        require(samples == 0 or samples >= MIN_SAMPLES, "evaluate.samples", f"0, or at least {MIN_SAMPLES}")

    @property
    def penalties(self) -> tuple[str, ...]:
        """Names of the penalties that the run has at some time, out of ``r1`` and ``r2``."""
        return tuple(name for name in ("r1", "r2") if getattr(self.penalty, name) or getattr(self.schedule, name))

    @property
    def parts_per_step(self) -> int:
        """Batches that a step takes from the loader, which are parts of whole ones with ``--accumulate``."""
        return self.d_steps * self.accumulate

    @property
    def penalty_flags(self) -> tuple[str, ...]:
        """The flags that give the run its penalties."""
        groups = {"penalty": self.penalty, "schedule": self.schedule}
        return tuple(f"--{name}.{r}" for name, group in groups.items() for r in ("r1", "r2") if getattr(group, r))

    def remaining_steps(self, step: int, position: int, samples: int) -> int:
        """Steps left on a data set of ``samples`` images. --epochs counts images, so the batch size may change."""
        if self.epochs is None:
            return max(0, (self.steps or self.default_steps) - step)
        return max(0, math.ceil((self.epochs * samples - position) / (self.batch_size * self.d_steps)))

    def evaluates(self, step: int, steps_left: int) -> bool:
        """Whether the generator is scored after ``step``."""
        return not steps_left or bool(self.evaluate.every and step % self.evaluate.every == 0)


OF_A_NODE = ("data.shards", "data.workers", "data.cache", "data.cache_gb", "threads")
"""Fields that may differ between the ranks of a run, because shards may be staged to a node's local disk."""


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """All fields by dotted name, ready for YAML."""
    flat: dict[str, Any] = {}
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{entry.name}.")
        else:
            # Flat configs are written to files, terminals and W&B, which refuses what is not Unicode.
            flat[prefix + entry.name] = printable(redact(str(value))) if isinstance(value, str | Path) else value
    return flat
