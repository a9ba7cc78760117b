"""The training step: k updates of the discriminator, then one of the generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import Config
from trainer.gan.augmentation import FAKE, FAKE_FOR_G, REAL, REAL_FOR_G, augment
from trainer.gan.losses import discriminator_loss, generator_loss, relative, score
from trainer.gan.networks import has_batch_norm
from trainer.gan.optimizer import Adam
from trainer.gan.penalties import gradient_penalties
from trainer.gan.schedule import Settings, settings
from trainer.gan.state import State

Metrics = dict[str, torch.Tensor]  # scalars on the device; reading one synchronises


class Part(NamedTuple):
    """A rank's rows of a batch, or with ``--accumulate`` of the part of it that is processed at a time."""

    real: torch.Tensor
    latent: torch.Tensor
    drawn: torch.Tensor  # the augmentation's numbers; empty without one
    labels: torch.Tensor | None  # classes of the real images and of the generated ones; None without classes


@dataclass
class Step:
    """Updates ``state`` in place from real images and latents."""

    state: State
    generator: nn.Module  # the generator of ``state``, wrapped for autocast, and for DDP on several ranks
    discriminator: nn.Module
    config: Config
    _settings: Settings | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        like = next(self.state.discriminator.parameters())
        self._augmented = like.new_zeros((), dtype=torch.float64)
        self._separate = has_batch_norm(self.state.discriminator)
        self._gammas = {name: like.new_zeros(()) for name in self.config.penalties}  # where a CUDA graph reads them

    def __call__(
        self,
        reals: Sequence[torch.Tensor],
        latents: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor] = (),
        labels: Sequence[torch.Tensor] = (),
        *,
        report: bool,
    ) -> Metrics:
        """Train on k batches of real images (n, channels, size, size) and as many of latents (n, z_dim).

        With ``--accumulate``, each batch comes as so many parts of equal size, one after another, which are processed
        in turn. Their gradients are averaged, and the generator step generates the images again: the activations of all
        parts would take the memory that parts save. Each part is one of the batch of all ranks, so that BatchNorm
        normalises the same images on any number of ranks.

        With an augmentation, ``numbers`` are as many of :func:`trainer.gan.augmentation.draw`. With classes, ``labels``
        are those of the real images, int64 (n,), and the generated images of the same indexes are of the same classes:
        the pairs of the relativistic loss share theirs.

        The generator step reuses the fake images of the last discriminator step, as in the tutorial. This saves a fifth
        of the arithmetic at k = 1. With ``report``, the metrics include gradient norms.
        """
        self.tune()
        return self.update(reals, latents, numbers, labels, report=report)

    def tune(self) -> None:
        """Change the settings to those of the state's position."""
        new, state = settings(self.config, self.state.position), self.state
        if new == self._settings:
            return
        self._settings = new
        betas = (self.config.optim.beta1, new.beta2)
        state.generator_optim.tune(new.lr_g, betas)
        state.discriminator_optim.tune(new.lr_d, betas)
        self._augmented.fill_(new.augment)
        for name, gamma in self._gammas.items():
            gamma.fill_(getattr(new, name))

    @property
    def due(self) -> tuple[str, ...]:
        """Names of the penalties in the next step, a function of the number of steps taken."""
        return self.config.penalties if self.state.step % self.config.penalty.every == 0 else ()

    def update(
        self,
        reals: Sequence[torch.Tensor],
        latents: Sequence[torch.Tensor],
        numbers: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
        *,
        report: bool,
    ) -> Metrics:
        """The part of a call that a CUDA graph records."""
        metrics: Metrics = {}
        empty, unlabelled = [torch.empty(0)] * len(reals), [None] * len(reals)
        columns = zip(reals, latents, numbers or empty, labels or unlabelled, strict=True)
        every, count = [Part(*rows) for rows in columns], self.config.accumulate
        for first in range(0, len(every), count):
            last, parts = first + count == len(every), every[first : first + count]
            with torch.set_grad_enabled(last and len(parts) == 1):
                fakes = [self.generator(part.latent, part.labels) for part in parts]
            metrics = self._discriminator_step(parts, fakes, report=report and last)
            if not last:
                self.state.scaler.update()  # it allows one optimizer step between two updates
        metrics |= self._generator_step(parts, fakes, report=report)
        self.state.scaler.update()
        return metrics

    def _discriminator_step(self, parts: Sequence[Part], fakes: Sequence[torch.Tensor], *, report: bool) -> Metrics:
        def loss_of(number: int) -> tuple[torch.Tensor, Metrics]:
            return self._discriminator_loss(parts[number], fakes[number].detach())

        metrics, norm = self._update(loss_of, self.discriminator, self.state.discriminator_optim, report=report)
        return metrics | ({} if norm is None else {"gradient/d": norm})

    def _discriminator_loss(self, part: Part, fake: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        """With the penalties, and the parts that it consists of."""
        due, kind = self.due, self.config.loss
        real, fake = self._augment(part.real, part.drawn, REAL), self._augment(fake, part.drawn, FAKE)
        real, fake = real.detach().requires_grad_("r1" in due), fake.requires_grad_("r2" in due)
        real_logits, fake_logits = self._judge(real, fake, part.labels)
        batches = {"r1": (real_logits, real), "r2": (fake_logits, fake)}
        squares = gradient_penalties([batches[name] for name in due])
        penalties = {name: self._gammas[name] * square for name, square in zip(due, squares, strict=True)}
        if kind == "relativistic":
            real_logits, fake_logits = relative(real_logits, fake_logits), relative(fake_logits, real_logits)
        loss = discriminator_loss(real_logits, fake_logits, kind)
        total = sum((self.config.penalty.every * penalty for penalty in penalties.values()), loss)
        scores = {"score/real": score(real_logits, kind), "score/fake_before": score(fake_logits, kind)}
        metrics = {"loss/d": loss.detach(), **scores}
        return total, metrics | {f"penalty/{name}": penalty.detach() for name, penalty in penalties.items()}

    def _judge(self, real: torch.Tensor, fake: torch.Tensor, labels: torch.Tensor | None) -> Sequence[torch.Tensor]:
        """Logits of both, for one backward pass and thus one all-reduce.

        One forward pass of both is faster than two. There are two with BatchNorm, whose statistics would differ, and if
        only one of the batches has a penalty, which would cost a second derivative of the other one too.
        """
        if self._separate or real.requires_grad != fake.requires_grad:
            # An enclosing autocast, of any device and even if not enabled, keeps the casts of the weights for both.
            with torch.autocast("cpu", enabled=False):
                return self.discriminator(real, labels), self.discriminator(fake, labels)
        both = None if labels is None else labels.repeat(2)
        logits: torch.Tensor = self.discriminator(torch.cat([real, fake]), both)
        return logits.chunk(2)

    def _generator_step(self, parts: Sequence[Part], fakes: Sequence[torch.Tensor], *, report: bool) -> Metrics:
        def loss_of(number: int) -> tuple[torch.Tensor, Metrics]:
            part = parts[number]
            fake = fakes[number] if len(parts) == 1 else self.generator(part.latent, part.labels)
            return self._generator_loss(part, fake)

        # Frozen and without DDP, or its gradients would be computed and all-reduced for nothing.
        self.state.discriminator.requires_grad_(False)
        metrics, norm = self._update(loss_of, self.generator, self.state.generator_optim, report=report)
        self.state.discriminator.requires_grad_(True)
        return metrics | ({} if norm is None else {"gradient/g": norm})

    def _generator_loss(self, part: Part, fake: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
        kind, discriminator = self.config.loss, self.state.discriminator
        logits = discriminator(self._augment(fake, part.drawn, FAKE_FOR_G), part.labels)
        if kind == "relativistic":
            real = self._augment(part.real, part.drawn, REAL_FOR_G)
            logits = relative(logits, discriminator(real, part.labels))
        loss = generator_loss(logits, kind)
        return loss, {"loss/g": loss.detach(), "score/fake_after": score(logits, kind)}

    def _augment(self, images: torch.Tensor, drawn: torch.Tensor, use: int) -> torch.Tensor:
        policy = self.config.augment.names
        return augment(images, drawn[:, use], policy, self._augmented) if policy else images

    def _update(
        self,
        loss_of: Callable[[int], tuple[torch.Tensor, Metrics]],
        network: nn.Module,
        optimizer: Adam,
        *,
        report: bool,
    ) -> tuple[Metrics, torch.Tensor | None]:
        """Update ``network`` by the mean gradient of the parts' losses. Returns the mean of their metrics and, with
        ``report``, the norm of the gradient.

        DDP reduces the gradients once, in the backward pass of the last part.
        """
        scaler, count = self.state.scaler, self.config.accumulate
        optimizer.zero_grad()
        rows = []
        for number in range(count):
            last = number == count - 1
            with nullcontext() if last or not isinstance(network, DistributedDataParallel) else network.no_sync():
                loss, metrics = loss_of(number)
                scaler.scale(loss / count).backward()  # type: ignore[no-untyped-call]
            rows.append(metrics)
        norm = None
        if report:
            scaler.unscale_(optimizer)  # type: ignore[arg-type]
            norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        scaler.step(optimizer)  # type: ignore[arg-type]
        return rows[0] if count == 1 else _mean(rows), norm


def _mean(rows: Sequence[Metrics]) -> Metrics:
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}
