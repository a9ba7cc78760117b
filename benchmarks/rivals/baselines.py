"""The training iterations of the DCGAN tutorial and of PyTorch's ``dcgan`` example, reimplemented.

Both use NCHW, float32 (unless run under autocast), stock Adam, and two separate ``nn.Sequential`` networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Iteration = Callable[[torch.Tensor], None]
"""One training iteration on real images (n, channels, 64, 64)."""


def generator(wide: int, features: int, channels: int = 3) -> nn.Sequential:
    """Maps latents (n, 100, 1, 1) to images, with ``wide * features`` down to ``wide / 8 * features`` channels."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(100, wide * features, 4, 1, 0, bias=False)]
    while True:
        layers += [nn.BatchNorm2d(wide * features), nn.ReLU(True)]
        if len(layers) == 12:
            return nn.Sequential(*layers, nn.ConvTranspose2d(wide * features, channels, 4, 2, 1), nn.Tanh())
        layers.append(nn.ConvTranspose2d(wide * features, wide // 2 * features, 4, 2, 1, bias=False))
        wide //= 2


def discriminator(features: int, channels: int = 3) -> nn.Sequential:
    """Maps images to logits (n, 1, 1, 1)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, features, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for width in (features, 2 * features, 4 * features):
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv2d(8 * features, 1, 4, 2, 0))


def _networks(features: int, device: torch.device) -> tuple[nn.Sequential, nn.Sequential, list[torch.optim.Adam]]:
    g, d = generator(16, features).to(device), discriminator(features).to(device)
    for module in [*g.modules(), *d.modules()]:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
    return g, d, [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (g, d)]


def tutorial(features: int, device: torch.device) -> Iteration:
    """The tutorial: one backward pass over both parts of D's loss. D is not frozen in the backward pass of G."""
    g, d, (g_optim, d_optim) = _networks(features, device)
    criterion = nn.BCEWithLogitsLoss()

    def iterate(real: torch.Tensor) -> None:
        fake = g(torch.randn(len(real), 100, 1, 1, device=device))
        on_real, on_fake = d(real).reshape(-1), d(fake.detach()).reshape(-1)
        loss = (criterion(on_real, torch.ones_like(on_real)) + criterion(on_fake, torch.zeros_like(on_fake))) / 2
        d.zero_grad()
        loss.backward(retain_graph=True)
        d_optim.step()
        output = d(fake).reshape(-1)
        loss = criterion(output, torch.ones_like(output))
        g.zero_grad()
        loss.backward()
        g_optim.step()

    return iterate


def pytorch_example(features: int, device: torch.device) -> Iteration:
    """The PyTorch example: two backward passes in the D step and three calls of ``.item()`` per iteration."""
    g, d, (g_optim, d_optim) = _networks(features, device)
    criterion = nn.BCEWithLogitsLoss()

    def iterate(real: torch.Tensor) -> None:
        d.zero_grad()
        label = torch.full((len(real),), 1.0, device=device)
        output = d(real).view(-1)
        error_real = criterion(output, label)
        error_real.backward()
        output.mean().item()
        fake = g(torch.randn(len(real), 100, 1, 1, device=device))
        label.fill_(0.0)
        output = d(fake.detach()).view(-1)
        error_fake = criterion(output, label)
        error_fake.backward()
        output.mean().item()
        d_optim.step()
        g.zero_grad()
        label.fill_(1.0)
        output = d(fake).view(-1)
        error = criterion(output, label)
        error.backward()
        output.mean().item()
        g_optim.step()

    return iterate
