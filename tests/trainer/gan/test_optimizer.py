from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from trainer.gan.optimizer import Adam

RATE, BETAS = 2e-4, (0.5, 0.999)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 4), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 4)).to(
        memory_format=torch.channels_last
    )


def backward(net: nn.Module, number: int, scale: float = 1.0) -> None:
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(number))
    (net(images).square().mean() * scale).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weights_are_those_of_pytorchs_own_bit_by_bit(dtype: torch.dtype) -> None:
    one = network().to(dtype)
    two = copy.deepcopy(one)
    mine, theirs = Adam(one, RATE, BETAS), torch.optim.Adam(two.parameters(), lr=RATE, betas=BETAS, fused=True)
    torch.set_default_dtype(dtype)
    try:
        for number in range(5):
            for net, optimizer in ((one, mine), (two, theirs)):
                optimizer.zero_grad()
                backward(net, number)
                optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    kept = mine.tensors()
    for name, parameter in two.named_parameters():
        assert all(torch.equal(kept[f"{name}.{part}"], value) for part, value in theirs.state[parameter].items())


def test_averages_laid_out_in_another_way_mean_the_same() -> None:
    one = network()
    two = copy.deepcopy(one)
    first, second = Adam(one, RATE, BETAS), Adam(two, RATE, BETAS)
    backward(one, 0)
    first.step()
    two.load_state_dict(one.state_dict())
    second.load({name: tensor.clone().contiguous() for name, tensor in first.tensors().items()})
    for net, optimizer in ((one, first), (two, second)):
        optimizer.zero_grad()
        backward(net, 1)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_overflow_moves_nothing_and_lowers_the_scale() -> None:
    net = network()
    optimizer, scaler = Adam(net, RATE, BETAS), torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in net.parameters()]
    backward(net, 0, scale=float("inf"))
    scaler.scale(torch.zeros(()))  # the scaler makes its tensors at the first loss
    scaler.step(optimizer)  # type: ignore[arg-type]
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert {int(t) for name, t in optimizer.tensors().items() if name.endswith(".step")} == {0}
    assert scaler.get_scale() == 2.0
    assert optimizer.skipped == 1
    optimizer.zero_grad()
    backward(net, 0)
    scaler.step(optimizer)  # type: ignore[arg-type]
    assert optimizer.skipped == 1


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaled_loss_moves_the_weights_as_an_unscaled_one(unscaled: bool) -> None:
    one = network()
    two = copy.deepcopy(one)
    plain, scaled, scaler = Adam(one, RATE, BETAS), Adam(two, RATE, BETAS), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))
    for number in range(3):
        for net, optimizer, scale in ((one, plain, 1.0), (two, scaled, scaler.get_scale())):
            optimizer.zero_grad()
            backward(net, number, scale)
        plain.step()
        if unscaled:
            scaler.unscale_(scaled)  # type: ignore[arg-type]
        scaler.step(scaled)  # type: ignore[arg-type]
        scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))  # powers of two


def test_a_network_without_gradients_or_of_other_names_is_refused() -> None:
    optimizer = Adam(network(), RATE, BETAS)
    with pytest.raises(RuntimeError, match="backward pass"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="differ by name"):
        optimizer.load({})


def test_training_starts_without_the_compiler() -> None:
    """What it is written for: ``torch._dynamo`` costs seconds at every start."""
    code = (
        "import sys, torch\nfrom torch import nn\nfrom trainer import samples\n"
        "from trainer.gan import state, step\n"
        "from trainer.config import Model\nfrom trainer.gan.factory import create_networks\n"
        "flags = {'norm_d': 'none', 'coarse_d': True, 'upsampling': 'nearest'}\n"
        "models = [Model(kind=kind, **flags) for kind in ('dcgan', 'residual', 'mlp')]\n"
        "with torch.device('meta'):\n    networks = [create_networks(model, 64, 3) for model in models]\n"
        "from trainer.gan.optimizer import Adam\nnet = nn.Linear(2, 1)\noptimizer = Adam(net, 1e-3, (0.5, 0.999))\n"
        "net(torch.ones(1, 2)).sum().backward()\noptimizer.step()\noptimizer.zero_grad()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
