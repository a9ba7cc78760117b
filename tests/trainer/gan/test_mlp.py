from __future__ import annotations

import torch
from torch import nn

from trainer.gan.mlp import PIECES, Maxout, MlpDiscriminator, MlpGenerator


def test_the_papers_widths_on_mnist() -> None:
    """1,200 ReLU units twice; 240 maxout units of five pieces twice (arXiv 1406.2661 and its published code)."""
    generator = [(layer.in_features, layer.out_features) for layer in linear(MlpGenerator(32, 1, 100, 75))]
    assert generator == [(100, 1200), (1200, 1200), (1200, 1024)]
    discriminator = [(layer.in_features, layer.out_features) for layer in linear(MlpDiscriminator(32, 1, 60))]
    assert discriminator == [(1024, 240 * PIECES), (240, 240 * PIECES), (240, 1)]


def linear(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def test_a_maxout_unit_is_the_largest_of_its_pieces() -> None:
    layer, values = Maxout(6, 4), torch.randn(3, 6)
    pieces = values @ layer.pieces.weight.T + layer.pieces.bias
    expected = torch.stack([pieces[:, PIECES * unit : PIECES * (unit + 1)].max(1).values for unit in range(4)], 1)
    assert torch.allclose(layer(values), expected)


def test_memory_layout_does_not_change_the_logits() -> None:
    """Real images come in ``channels_last`` memory, generated ones do not."""
    discriminator, images = MlpDiscriminator(32, 3, 2), torch.randn(2, 3, 32, 32)
    assert torch.equal(discriminator(images), discriminator(images.to(memory_format=torch.channels_last)))
