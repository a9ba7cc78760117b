"""The training step: k updates of the discriminator, then one of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainer.config import Config
from trainer.gan.losses import discriminator_loss, generator_loss, relative, score
from trainer.gan.optimizer import Adam
from trainer.gan.state import State

Metrics = dict[str, torch.Tensor]  # scalars on the device; reading one synchronises


@dataclass(frozen=True)
class Step:
    """Updates ``state`` in place from real images and latents."""

    state: State
    generator: nn.Module  # the generator of ``state``, wrapped for autocast, and for DDP on several ranks
    discriminator: nn.Module
    config: Config

    def __call__(self, reals: Sequence[torch.Tensor], latents: Sequence[torch.Tensor], *, report: bool) -> Metrics:
        """Train on k batches of real images (n, channels, size, size) and as many of latents (n, z_dim).

        The generator step reuses the fake images of the last discriminator step, as in the tutorial. This saves a fifth
        of the arithmetic at k = 1. With ``report``, the metrics include gradient norms.
        """
        metrics: Metrics = {}
        for number, (real, latent) in enumerate(zip(reals, latents, strict=True)):
            last = number == len(reals) - 1
            with torch.set_grad_enabled(last):
                fake = self.generator(latent)
            metrics = self._discriminator_step(real, fake.detach(), report=report and last)
            if not last:
                self.state.scaler.update()  # it allows one optimizer step between two updates
        metrics |= self._generator_step(real, fake, report=report)
        self.state.scaler.update()
        return metrics

    def _discriminator_step(self, real: torch.Tensor, fake: torch.Tensor, *, report: bool) -> Metrics:
        # Two forwards, because BatchNorm's statistics of a joint batch differ. One backward, for one all-reduce.
        kind, real_logits, fake_logits = self.config.loss, self.discriminator(real), self.discriminator(fake)
        if kind == "relativistic":
            real_logits, fake_logits = relative(real_logits, fake_logits), relative(fake_logits, real_logits)
        loss = discriminator_loss(real_logits, fake_logits, kind)
        norm = self._update(loss, self.state.discriminator, self.state.discriminator_optim, report=report)
        scores = {"score/real": score(real_logits, kind), "score/fake_before": score(fake_logits, kind)}
        return {"loss/d": loss.detach(), **scores, **({"gradient/d": norm} if norm is not None else {})}

    def _generator_step(self, real: torch.Tensor, fake: torch.Tensor, *, report: bool) -> Metrics:
        # Frozen and without DDP, or its gradients would be computed and all-reduced for nothing.
        kind, discriminator = self.config.loss, self.state.discriminator.requires_grad_(False)
        logits = discriminator(fake)
        if kind == "relativistic":
            logits = relative(logits, discriminator(real))
        loss = generator_loss(logits, kind)
        norm = self._update(loss, self.state.generator, self.state.generator_optim, report=report)
        discriminator.requires_grad_(True)
        metrics = {"loss/g": loss.detach(), "score/fake_after": score(logits, kind)}
        return {**metrics, **({"gradient/g": norm} if norm is not None else {})}

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
