from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shards.common.errors import InputError
from trainer.config import Config, Model
from trainer.gan.coarse import CHROMA, SIDE, CellMeans, CoarseLogits, OpponentColours


def test_differences_of_lightness_keep_their_length_and_those_of_colours_grow() -> None:
    colours = torch.randn(20, 3)
    grey = colours.mean(1, keepdim=True).expand_as(colours)
    found = OpponentColours()(colours).square().sum(1)
    wanted = grey.square().sum(1) + CHROMA**2 * (colours - grey).square().sum(1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_mean_of_each_cell_counts(channels: int) -> None:
    logits, images = CoarseLogits(32, channels), torch.randn(4, channels, 32, 32)
    cells = images.view(4, channels, SIDE, 4, SIDE, 4).mean((3, 5))
    flat = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert logits(images).shape == (4,) and logits(images).std() > 0
    torch.testing.assert_close(logits(flat), logits(images))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_means_are_those_of_a_pooling(memory_format: torch.memory_format) -> None:
    images = torch.randn(5, 3, 64, 64).to(memory_format=memory_format)
    torch.testing.assert_close(CellMeans(8)(images), F.avg_pool2d(images, 8).flatten(2).transpose(1, 2))


def test_each_cell_is_described_alone_and_by_the_same_weights() -> None:
    describe = nn.Sequential(*list(CoarseLogits(64, 3))[:6])
    images = torch.randn(2, 3, 64, 64)
    moved = images.roll((8, -16), (2, 3))
    found = describe(moved).unflatten(1, (SIDE, SIDE))
    torch.testing.assert_close(found, describe(images).unflatten(1, (SIDE, SIDE)).roll((1, -2), (1, 2)))


def test_no_weights_but_those_of_its_layers() -> None:
    assert {name.split(".")[1] for name in CoarseLogits(64, 3).state_dict()} == {"weight", "bias"}


def test_normalised_discriminators_have_none() -> None:
    with pytest.raises(InputError, match=r"needs --model.norm-d none, not batch. Add --model.no-coarse-d"):
        Config(model=Model(norm_d="batch", coarse_d=True))
    Config(model=Model(kind="mlp", norm_d="batch", coarse_d=True))
