from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.config import Model
from trainer.gan.factory import create_networks
from trainer.gan.networks import Discriminator, Generator, initialise
from trainer.gan.residual import Block, Doubling, Halving, ResidualDiscriminator, ResidualGenerator


def networks(features: int = 16, size: int = 64) -> tuple[Generator, Discriminator]:
    generator, discriminator = create_networks(
        Model(kind="residual", features_g=features, features_d=features), size, 3
    )
    initialise(generator, 0)
    initialise(discriminator, 1)
    return generator, discriminator


def multiplications(network: nn.Module, inputs: torch.Tensor) -> int:
    """Of all convolutions and linear layers, for one image; resampling has no weights and is not counted."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        pixels = output[0].numel() if isinstance(layer, nn.Linear) else output[0, 0].numel() * output.shape[1]
        total += pixels * layer.weight[0].numel()  # type: ignore[index]

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network(inputs)
    return total


def test_a_generator_of_the_default_width_costs_one_to_two_billion_multiplications() -> None:
    """At 64x64. DCGAN's costs 0.41 billion, R3GAN's 12.8."""
    generator, _ = networks(features=64)
    with torch.no_grad():
        assert 1e9 < multiplications(generator, torch.randn(1, 100)) < 2e9


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_scale_of_what_a_layer_sees_is_kept(size: int) -> None:
    """From 4x4 pixels to the images, and back: nothing fades or grows with the size."""
    generator, discriminator = networks(size=size)
    stages: list[torch.Tensor] = []
    for network in (generator, discriminator):
        for stage in network.stages:  # type: ignore[union-attr]
            stage.register_forward_hook(lambda _module, _input, output: stages.append(output))
    with torch.no_grad():
        images = generator(torch.randn(64, 100))
        assert 0.2 < images.std() < 1
        logits = discriminator(images)
    assert all(0.2 < stage.std() < 1 for stage in stages)
    assert 0.02 < logits.std() < 1


def test_a_block_starts_as_the_identity_and_learns() -> None:
    block, images = Block(4), torch.randn(2, 4, 8, 8)
    initialise(block, 0)
    assert torch.equal(block(images), images)
    block(images).square().sum().backward()
    assert block.layers[-1].weight.grad.abs().max() > 0


def test_weights_of_the_last_convolutions_alone_are_zero() -> None:
    for network in networks():
        zero = [name for name, weight in network.named_parameters() if weight.dim() == 4 and not weight.any()]
        assert zero == [name for name, _ in network.named_parameters() if name.endswith("layers.4.weight")]


@pytest.mark.parametrize("value", [1.0, -3.0])
def test_resampling_keeps_a_flat_image(value: float) -> None:
    """Halving sees zeros beyond two of the borders, doubling beyond two others."""
    flat = torch.full((1, 2, 8, 8), value)
    assert torch.equal(Halving()(flat)[:, :, 1:, 1:], flat[:, :, :3, :3])
    assert torch.equal(Doubling()(flat)[:, :, :-1, :-1], torch.full((1, 2, 15, 15), value))


def test_doubling_is_the_transpose_of_halving() -> None:
    """But for the factor of four, which keeps a flat image."""
    small, large = torch.randn(1, 3, 8, 8, dtype=torch.float64), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    halving, doubling = Halving().double(), Doubling().double()
    assert (halving(large) * small).sum().item() * 4 == pytest.approx((large * doubling(small)).sum().item())


def test_images_are_clamped_in_eval_mode_only() -> None:
    """A clamp has no gradient outside of its range, where the generator has to learn most."""
    generator, _ = networks()
    latents = 20 * torch.randn(4, 100)
    assert generator(latents).abs().max() > 1
    assert torch.equal(generator.eval()(latents), generator.train()(latents).clamp(-1, 1))


def test_it_has_no_normalisation_and_names_itself() -> None:
    for network in networks():
        assert isinstance(network, ResidualGenerator | ResidualDiscriminator)
        assert not any("Norm" in type(module).__name__ for module in network.modules())
