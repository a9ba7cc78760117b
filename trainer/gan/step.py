"""The training step: k updates of the discriminator, then one of the generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainer.config import Loss
from trainer.gan.losses import discriminator_loss, exact, generator_loss
from trainer.gan.optimizer import Adam
from trainer.gan.state import State

Metrics = dict[str, torch.Tensor]  # scalars on the device; reading one synchronises


@dataclass(frozen=True)
class Step:
    """Updates ``state`` in place from real images and latents."""

    state: State
    generator: nn.Module  # the generator of ``state``, wrapped for autocast, and for DDP on several ranks
    discriminator: nn.Module
    loss: Loss

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
        metrics |= self._generator_step(fake, report=report)
        self.state.scaler.update()
        return metrics

    def _discriminator_step(self, real: torch.Tensor, fake: torch.Tensor, *, report: bool) -> Metrics:
        # Two forwards, because BatchNorm's statistics of a joint batch differ. One backward, for one all-reduce.
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        loss = discriminator_loss(real_logits, fake_logits)
        norm = self._update(loss, self.state.discriminator, self.state.discriminator_optim, report=report)
        scores = {"score/real": real_logits, "score/fake_before": fake_logits}
        return {"loss/d": loss.detach(), **_means(scores), **({"gradient/d": norm} if norm is not None else {})}

    def _generator_step(self, fake: torch.Tensor, *, report: bool) -> Metrics:
        # Frozen and without DDP, or its gradients would be computed and all-reduced for nothing.
        self.state.discriminator.requires_grad_(False)
        logits = self.state.discriminator(fake)
        loss = generator_loss(logits, self.loss)
        norm = self._update(loss, self.state.generator, self.state.generator_optim, report=report)
        self.state.discriminator.requires_grad_(True)
        scores = {"score/fake_after": logits}
        return {"loss/g": loss.detach(), **_means(scores), **({"gradient/g": norm} if norm is not None else {})}

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


def _means(logits: dict[str, torch.Tensor]) -> Metrics:
    return {name: exact(values.detach()).sigmoid().mean() for name, values in logits.items()}
