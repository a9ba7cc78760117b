"""Convolution with spectral normalisation (Miyato et al., arXiv 1802.05957).

``torch.nn.utils.parametrizations.spectral_norm`` draws its vectors from the global generator, reads of ``weight``
change them, and under autocast the norm has bfloat16's 8 bits.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class SpectralConv2d(nn.Conv2d):
    """Convolution whose weight, as a matrix (out, in * height * width), is divided by its largest singular value.

    ``direction`` (out,) estimates the singular vector. Each forward in training mode improves it by one power
    iteration, which costs as much as the convolution of one pixel and depends on the weight only: ranks agree.
    """

    direction: torch.Tensor

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(narrow, wide, kernel, stride, padding)
        self.register_buffer("direction", F.normalize(torch.ones(wide), dim=0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(images.device.type, enabled=False):
            weight = self.weight / self._norm()
        return F.conv2d(images, weight, self.bias, self.stride, self.padding)

    def _norm(self) -> torch.Tensor:
        """The largest singular value; its gradient for the weight is that with ``direction`` held constant."""
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1)  # a view in channels_last memory
        if self.training:
            with torch.no_grad():
                self.direction.copy_(F.normalize(matrix @ F.normalize(self.direction @ matrix, dim=0), dim=0))
        # A copy, because the next forward changes the vector before this one's backward.
        norm: torch.Tensor = torch.linalg.vector_norm(self.direction.clone() @ matrix)
        return norm
