from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from shards.common.errors import InputError
from trainer.config import Config, Model
from trainer.gan.coarse import CHROMA, SIDE, CoarseLogits, OpponentColours


def test_differences_of_lightness_keep_their_length_and_those_of_colours_grow() -> None:
    colours = torch.randn(20, 3, 1, 1)
    grey = colours.mean(1, keepdim=True).expand_as(colours)
    found = OpponentColours()(colours).square().sum(1)
    wanted = grey.square().sum(1) + CHROMA**2 * (colours - grey).square().sum(1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_mean_of_each_cell_counts(channels: int) -> None:
    logits, images = CoarseLogits(32, channels), torch.randn(4, channels, 32, 32)
    cells = images.view(4, channels, SIDE, 8, SIDE, 8).mean((3, 5))
    flat = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    assert logits(images).shape == (4,) and logits(images).std() > 0
    torch.testing.assert_close(logits(flat), logits(images))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_its_layers_are_the_pooling_and_the_convolutions_that_they_replace(memory_format: torch.memory_format) -> None:
    network = CoarseLogits(64, 3).to(memory_format=memory_format)  # type: ignore[call-overload]
    images = torch.randn(5, 3, 64, 64).to(memory_format=memory_format)
    hidden = network[1](F.avg_pool2d(images, 16))
    hidden = F.leaky_relu(F.conv2d(hidden, network[2].weight, network[2].bias).flatten(2), 0.2)
    hidden = F.leaky_relu(F.conv1d(hidden, network[5].weight, network[5].bias), 0.2)
    torch.testing.assert_close(network(images), F.conv1d(hidden, network[7].weight, network[7].bias).flatten())


def test_no_weights_but_those_of_its_layers() -> None:
    assert {name.split(".")[1] for name in CoarseLogits(64, 3).state_dict()} == {"weight", "bias"}


def test_normalised_discriminators_have_none() -> None:
    with pytest.raises(InputError, match=r"needs --model.norm-d none, not batch. Add --model.no-coarse-d"):
        Config(model=Model(norm_d="batch", coarse_d=True))
    Config(model=Model(kind="mlp", norm_d="batch", coarse_d=True))
