"""The tutorial's procedure, written down plainly: the yardstick for networks, losses and the step.

Plain modules in NCHW, a sigmoid at the end of the discriminator, ``BCELoss``, stock Adam; D then G in each iteration,
the same fakes for both.
"""

from __future__ import annotations

import torch
from torch import nn


def generator(z_dim: int, channels: int, features: int) -> nn.Sequential:
    def block(wide: int, narrow: int, stride: int, padding: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(wide, narrow, 4, stride, padding, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()
        )

    return nn.Sequential(
        block(z_dim, features * 16, 1, 0),
        block(features * 16, features * 8, 2, 1),
        block(features * 8, features * 4, 2, 1),
        block(features * 4, features * 2, 2, 1),
        nn.ConvTranspose2d(features * 2, channels, 4, 2, 1),
        nn.Tanh(),
    )


def discriminator(channels: int, features: int) -> nn.Sequential:
    def block(narrow: int, wide: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2))

    return nn.Sequential(
        nn.Conv2d(channels, features, 4, 2, 1),
        nn.LeakyReLU(0.2),
        block(features, features * 2),
        block(features * 2, features * 4),
        block(features * 4, features * 8),
        nn.Conv2d(features * 8, 1, 4, 2, 0),
        nn.Sigmoid(),
    )


class Tutorial:
    """Both networks, their optimizers, and one iteration."""

    def __init__(self, channels: int, z_dim: int, features: int, dtype: torch.dtype = torch.float32) -> None:
        self.generator = generator(z_dim, channels, features).to(dtype)
        self.discriminator = discriminator(channels, features).to(dtype)
        self.generator_optim = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.discriminator_optim = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.criterion = nn.BCELoss()

    def step(self, real: torch.Tensor, noise: torch.Tensor, minimax: bool = False) -> tuple[float, float]:
        """One iteration on ``real`` (n, channels, 64, 64) and ``noise`` (n, z_dim): the losses of D and G."""
        fake = self.generator(noise[:, :, None, None])
        on_real = self.discriminator(real).reshape(-1)
        on_fake = self.discriminator(fake.detach()).reshape(-1)
        loss_real = self.criterion(on_real, torch.ones_like(on_real))
        loss_fake = self.criterion(on_fake, torch.zeros_like(on_fake))
        loss_d = (loss_real + loss_fake) / 2
        self.discriminator.zero_grad()
        loss_d.backward()
        self.discriminator_optim.step()

        output = self.discriminator(fake).reshape(-1)
        if minimax:
            loss_g = -self.criterion(output, torch.zeros_like(output))
        else:
            loss_g = self.criterion(output, torch.ones_like(output))
        self.generator.zero_grad()
        loss_g.backward()
        self.generator_optim.step()
        return loss_d.item(), loss_g.item()
