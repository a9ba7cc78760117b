"""The networks that only studies have differ from DCGAN's in what their names say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.rivals.ablations import (
    NO_BATCH_NORM,
    POOLING,
    with_default_initialisation,
    with_pooling,
    without_batch_norm,
)
from trainer.config import Config, Model
from trainer.gan.factory import GENERATORS, create_networks
from trainer.gan.networks import has_batch_norm
from trainer.gan.state import State, create_state


def networks(kind: str, size: int = 64) -> tuple[nn.Module, nn.Module]:
    return create_networks(Model(kind=kind, z_dim=8, features_g=4, features_d=4), size, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(("kind", "change"), [(NO_BATCH_NORM, without_batch_norm), (POOLING, with_pooling)])
def test_networks_have_dcgans_shapes_and_exist_in_the_block_only(kind: str, change: type, size: int) -> None:
    with change():
        generator, discriminator = networks(kind, size)
    assert kind not in GENERATORS
    dcgan = networks("dcgan", size)
    images = generator(torch.randn(2, 8))
    assert images.shape == (2, 3, size, size) and discriminator(images).shape == (2,)
    discriminator(images).sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())
    shapes = [[tuple(a.shape) for a in net.activations(images)] for net in (discriminator, dcgan[1])]  # type: ignore[operator]
    assert shapes[0] == shapes[1]


def test_nothing_is_left_of_batch_norm_but_its_bias() -> None:
    with without_batch_norm():
        plain, dcgan = networks(NO_BATCH_NORM), networks("dcgan")
    for ours, theirs in zip(plain, dcgan, strict=True):
        assert has_batch_norm(theirs) and not has_batch_norm(ours)
        norms = sum(m.num_features for m in theirs.modules() if isinstance(m, nn.BatchNorm2d))
        assert (
            norms > 0
            and sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) - norms
        )


def test_without_batch_norm_the_weights_still_start_small() -> None:
    with without_batch_norm():
        model = Model(kind=NO_BATCH_NORM, features_g=8, features_d=8)  # type: ignore[arg-type]
        state = create_state(Config(model=model), 32, 1, torch.device("cpu"))
    for network in (state.generator, state.discriminator):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert 0.015 < module.weight.std() < 0.025


def test_no_convolution_of_pooling_networks_has_a_stride_but_the_last() -> None:
    with with_pooling():
        generator, discriminator = networks(POOLING)
    strides = [m.stride for net in (generator, discriminator) for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert strides[-1] == (2, 2) and set(strides[:-1]) == {(1, 1)}
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in generator.modules()) == 1  # which makes 4x4 of a latent


def test_the_default_initialisation_is_pytorchs_and_a_function_of_the_seed() -> None:
    def create(seed: int) -> State:
        config = Config(model=Model(features_g=8, features_d=8), seed=seed)
        return create_state(config, 32, 1, torch.device("cpu"))

    def weights(state: State) -> torch.Tensor:
        return torch.cat([parameter.flatten() for parameter in state.discriminator.parameters()])

    with with_default_initialisation():
        first, again, other = create(0), create(0), create(1)
    assert torch.equal(weights(first), weights(again)) and not torch.equal(weights(first), weights(other))
    convolution = next(m for m in first.discriminator.modules() if isinstance(m, nn.Conv2d))
    bound = 1 / convolution.weight[0].numel() ** 0.5
    assert 0.9 * bound < convolution.weight.abs().max() <= bound
    assert create(0).discriminator.blocks[0][0].weight.std() < 0.03, "N(0, 0.02) again"  # type: ignore[index]
