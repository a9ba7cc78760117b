from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.gan.dcgan import DcganDiscriminator, DcganGenerator
from trainer.gan.networks import SIZES, initialise, levels

Shape = tuple[int, int, bool]
"""Channels in and out of a convolution, and whether it has a bias."""


def convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]


def shapes(network: nn.Module) -> list[Shape]:
    return [(conv.in_channels, conv.out_channels, conv.bias is not None) for conv in convolutions(network)]


def kinds(network: nn.Module) -> list[str]:
    return [type(module).__name__ for module in network.modules() if not list(module.children())]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_generator_makes_images_of_its_size(size: int, channels: int) -> None:
    generator = DcganGenerator(size, channels, z_dim=7, features=2)
    images = generator(1000 * torch.randn(3, 7))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_the_discriminator_gives_one_unbounded_logit_per_image(size: int, channels: int, count: int) -> None:
    discriminator = DcganDiscriminator(size, channels, features=2).eval()
    logits = discriminator(1e6 * torch.randn(count, channels, size, size))
    assert logits.shape == (count,)
    assert logits.abs().max() > 1


@pytest.mark.parametrize("channels", [1, 3])
def test_widths_at_64_are_the_tutorials(channels: int) -> None:
    f = 5
    assert shapes(DcganGenerator(64, channels, 100, f)) == [
        (100, 16 * f, False),
        (16 * f, 8 * f, False),
        (8 * f, 4 * f, False),
        (4 * f, 2 * f, False),
        (2 * f, channels, True),
    ]
    assert shapes(DcganDiscriminator(64, channels, f)) == [
        (channels, f, True),
        (f, 2 * f, False),
        (2 * f, 4 * f, False),
        (4 * f, 8 * f, False),
        (8 * f, 1, True),
    ]


@pytest.mark.parametrize(
    ("size", "multiples"), [(32, [8, 4, 2]), (128, [32, 16, 8, 4, 2]), (256, [32, 32, 16, 8, 4, 2])]
)
def test_a_size_has_a_layer_for_each_doubling(size: int, multiples: list[int]) -> None:
    """None of the generator is wider than those of 128 pixels."""
    f = 3
    generator, discriminator = DcganGenerator(size, 3, 100, f), DcganDiscriminator(size, 3, f)
    assert [narrow for _, narrow, _ in shapes(generator)] == [*(f * multiple for multiple in multiples), 3]
    assert [wide for _, wide, _ in shapes(discriminator)] == [*(f * 2**level for level in range(len(multiples))), 1]


def test_layers_at_64_are_the_tutorials() -> None:
    up, down = ["Doubling", "BatchNorm2d", "ReLU"], ["Halving", "BatchNorm2d", "LeakyReLU"]
    generator, discriminator = DcganGenerator(64, 3, 100, 2), DcganDiscriminator(64, 3, 2)
    assert kinds(generator) == ["LatentConvolution", *up[1:]] + 3 * up + ["Doubling", "Tanh"]
    assert kinds(discriminator) == ["Conv2d", "LeakyReLU"] + 3 * down + ["WholeConv2d"]
    assert {m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert {conv.kernel_size for conv in convolutions(generator) + convolutions(discriminator)} == {(4, 4)}


@pytest.mark.parametrize(
    ("size", "channels", "z_dim", "features", "g", "d"),
    [(64, 3, 100, 64, 12_658_435, 2_765_633), (32, 1, 10, 8, 51_681, 10_985)],
)
def test_as_many_parameters_as_counted_by_hand(
    size: int, channels: int, z_dim: int, features: int, g: int, d: int
) -> None:
    with torch.device("meta"):
        assert parameters(DcganGenerator(size, channels, z_dim, features)) == g
        assert parameters(DcganDiscriminator(size, channels, features)) == d


@pytest.mark.parametrize("size", [0, 16, 48, 512])
def test_other_sizes_are_refused(size: int) -> None:
    for make in (lambda: levels(size), lambda: DcganGenerator(size, 3, 8, 2), lambda: DcganDiscriminator(size, 3, 2)):
        with pytest.raises(ValueError, match=f"not {size}"):
            make()


def test_equal_seeds_give_equal_weights_whatever_was_drawn_before() -> None:
    first, second, other = (DcganGenerator(32, 3, 8, 4) for _ in range(3))
    before = torch.get_rng_state()
    initialise(first, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    initialise(second, 3)
    initialise(other, 4)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert name.endswith("1.bias") or not torch.equal(a, c)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_initial_weights_have_dcgans_moments(mean: float) -> None:
    for network in (DcganGenerator(64, 3, 100, 32), DcganDiscriminator(64, 3, 32)):
        initialise(network, 1, mean)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                check_normal(module.weight, 0.0)
                if module.bias is not None:
                    bound = (module.weight[0].numel()) ** -0.5
                    assert 0 < module.bias.abs().max() <= bound
            elif isinstance(module, nn.BatchNorm2d):
                check_normal(module.weight, mean)
                assert (module.bias == 0).all()


@pytest.mark.parametrize("size", [32, 128, 256])
def test_without_batchnorm_the_initial_weights_keep_the_signal(size: int) -> None:
    """Through all layers, so that the first logits depend on the images."""
    network = DcganDiscriminator(size, 3, 16, "none")
    initialise(network, 1)
    for convolution in convolutions(network)[1:-1]:
        check_normal(convolution.weight, 0.0, (2 / (1.04 * convolution.weight[0].numel())) ** 0.5)
    images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in network.activations(images):
            assert 0.5 < layer.square().mean().sqrt() < 2
        assert network(images).std() > 0.1


def check_normal(values: torch.Tensor, mean: float, std: float = 0.02) -> None:
    """Within five standard errors."""
    assert abs(values.mean() - mean) < 5 * std / values.numel() ** 0.5
    assert abs(values.std() - std) < 5 * std / (2 * values.numel()) ** 0.5


def test_biases_fill_their_range() -> None:
    """PyTorch's own bound is one over the root of the fan-in, 16 here times the channels out."""
    generator = DcganGenerator(32, 3, 8, 4)
    last = convolutions(generator)[-1]
    drawn = []
    for seed in range(200):
        initialise(generator, seed)
        assert last.bias is not None
        drawn.append(last.bias.detach().clone())
    biases = torch.cat(drawn)
    bound = (16 * 3) ** -0.5
    assert 0.98 * bound < biases.abs().max() <= bound
    assert abs(biases.mean()) < 5 * bound / (3 * len(biases)) ** 0.5
