from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure.flops import forward, iteration
from tests.trainer.gan.test_step import create, small
from trainer.config import Upsampling
from trainer.gan.dcgan import DcganDiscriminator, DcganGenerator
from trainer.gan.kernels.products import NONE


@pytest.fixture(autouse=True)
def convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's counter knows no product into a given tensor; a convolution is as much work."""
    monkeypatch.setattr("trainer.gan.kernels.transposed_convolution.float32_passes", lambda _: NONE)


@pytest.mark.parametrize(("size", "upsampling"), [(32, "transposed"), (256, "transposed"), (64, "nearest")])
def test_the_count_of_a_forward_is_pytorchs(size: int, upsampling: Upsampling) -> None:
    layers = forward(size, 3, 10, 2, 4)
    for name, network, given in (
        ("generator", DcganGenerator(size, 3, 10, 2, upsampling), torch.zeros(5, 10)),
        ("discriminator", DcganDiscriminator(size, 3, 4), torch.zeros(5, 3, size, size)),
    ):
        with FlopCounterMode(display=False) as counter:
            network(given)
        assert counter.get_total_flops() == 2 * 5 * sum(layers[name].values())


def test_the_count_of_an_iteration_is_pytorchs() -> None:
    config = small()
    step = create(config)[1]
    channels, size = 3, 64
    real = torch.zeros(6, channels, size, size)
    with FlopCounterMode(display=False) as counter:
        step([real], [torch.zeros(6, config.model.z_dim)], report=False)
    layers = forward(size, channels, config.model.z_dim, config.model.features_g, config.model.features_d)
    assert counter.get_total_flops() == 6 * iteration(layers)


def test_the_tutorials_iteration_costs_two_thousand_million_multiplications() -> None:
    assert iteration(forward(64, 3, 100, 64, 64)) == pytest.approx(2 * 2.05e9, rel=0.01)
