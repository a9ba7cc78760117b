"""The training step: k updates of the discriminator, then one of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from trainer.config import Config
from trainer.gan.augmentation import FAKE, FAKE_FOR_G, REAL, REAL_FOR_G, augment
from trainer.gan.losses import discriminator_loss, generator_loss, relative, score
from trainer.gan.networks import has_batch_norm
from trainer.gan.optimizer import Adam
from trainer.gan.penalties import gradient_penalties
from trainer.gan.schedule import Settings, settings
from trainer.gan.state import State

Metrics = dict[str, torch.Tensor]  # scalars on the device; reading one synchronises


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
        *,
        report: bool,
    ) -> Metrics:
        """Train on k batches of real images (n, channels, size, size) and as many of latents (n, z_dim).

        With an augmentation, ``numbers`` are as many of :func:`trainer.gan.augmentation.draw`.

        The generator step reuses the fake images of the last discriminator step, as in the tutorial. This saves a fifth
        of the arithmetic at k = 1. With ``report``, the metrics include gradient norms.
        """
        self.tune()
        return self.update(reals, latents, numbers, report=report)

    def tune(self) -> None:
        """Change the settings to those of the state's position."""
        new, state = settings(self.config, self.state.position), self.state
        if new == self._settings:
            return
        self._settings = new
        state.generator_optim.tune(new.lr_g, (new.beta1, new.beta2))
        state.discriminator_optim.tune(new.lr_d, (new.beta1, new.beta2))
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
        *,
        report: bool,
    ) -> Metrics:
        """The part of a call that a CUDA graph records."""
        metrics: Metrics = {}
        empty = [torch.empty(0)] * len(reals)
        for number, (real, latent, drawn) in enumerate(zip(reals, latents, numbers or empty, strict=True)):
            last = number == len(reals) - 1
            with torch.set_grad_enabled(last):
                fake = self.generator(latent)
            metrics = self._discriminator_step(real, fake.detach(), drawn, report=report and last)
            if not last:
                self.state.scaler.update()  # it allows one optimizer step between two updates
        metrics |= self._generator_step(real, fake, drawn, report=report)
        self.state.scaler.update()
        return metrics

    def _discriminator_step(
        self, real: torch.Tensor, fake: torch.Tensor, drawn: torch.Tensor, *, report: bool
    ) -> Metrics:
        due, kind = self.due, self.config.loss
        real, fake = self._augment(real, drawn, REAL), self._augment(fake, drawn, FAKE)
        real, fake = real.detach().requires_grad_("r1" in due), fake.requires_grad_("r2" in due)
        real_logits, fake_logits = self._judge(real, fake)
        batches = {"r1": (real_logits, real), "r2": (fake_logits, fake)}
        squares = gradient_penalties([batches[name] for name in due])
        penalties = {name: self._gammas[name] * square for name, square in zip(due, squares, strict=True)}
        if kind == "relativistic":
            real_logits, fake_logits = relative(real_logits, fake_logits), relative(fake_logits, real_logits)
        loss = discriminator_loss(real_logits, fake_logits, kind)
        total = sum((self.config.penalty.every * penalty for penalty in penalties.values()), loss)
        norm = self._update(total, self.state.discriminator, self.state.discriminator_optim, report=report)
        scores = {"score/real": score(real_logits, kind), "score/fake_before": score(fake_logits, kind)}
        metrics = {"loss/d": loss.detach(), **scores, **({"gradient/d": norm} if norm is not None else {})}
        return metrics | {f"penalty/{name}": penalty.detach() for name, penalty in penalties.items()}

    def _judge(self, real: torch.Tensor, fake: torch.Tensor) -> Sequence[torch.Tensor]:
        """Logits of both, for one backward pass and thus one all-reduce.

        One forward pass is faster than two, but BatchNorm's statistics of a joint batch differ, and a penalty of one
        half would be differentiated through the whole batch.
        """
        if self._separate or real.requires_grad != fake.requires_grad:
            return self.discriminator(real), self.discriminator(fake)
        logits: torch.Tensor = self.discriminator(torch.cat([real, fake]))
        return logits.chunk(2)

    def _generator_step(self, real: torch.Tensor, fake: torch.Tensor, drawn: torch.Tensor, *, report: bool) -> Metrics:
        # Frozen and without DDP, or its gradients would be computed and all-reduced for nothing.
        kind, discriminator = self.config.loss, self.state.discriminator.requires_grad_(False)
        logits = discriminator(self._augment(fake, drawn, FAKE_FOR_G))
        if kind == "relativistic":
            logits = relative(logits, discriminator(self._augment(real, drawn, REAL_FOR_G)))
        loss = generator_loss(logits, kind)
        norm = self._update(loss, self.state.generator, self.state.generator_optim, report=report)
        discriminator.requires_grad_(True)
        metrics = {"loss/g": loss.detach(), "score/fake_after": score(logits, kind)}
        return {**metrics, **({"gradient/g": norm} if norm is not None else {})}

    def _augment(self, images: torch.Tensor, drawn: torch.Tensor, use: int) -> torch.Tensor:
        policy = self.config.augment.names
        return augment(images, drawn[:, use], policy, self._augmented) if policy else images

    def _update(self, loss: torch.Tensor, network: nn.Module, optimizer: Adam, *, report: bool) -> torch.Tensor | None:
        scaler = self.state.scaler
        optimizer.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        norm = None
        if report:
            scaler.unscale_(optimizer)  # type: ignore[arg-type]
            norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        scaler.step(optimizer)  # type: ignore[arg-type]
        return norm
