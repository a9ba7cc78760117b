"""Gradients of gradients, which penalties such as R1 need, against PyTorch's own and on several ranks."""

from __future__ import annotations

import ast
import os
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel

from tests.support.launching import ROOT
from tests.support.ranks import on_ranks
from trainer.gan.dcgan import DcganDiscriminator
from trainer.gan.kernels.sync_batchnorm import SyncBatchNorm, synchronise
from trainer.gan.kernels.transposed_convolution import Doubling
from trainer.gan.networks import initialise

PROVEN = {"_Normalise", "CudaNormalise", "_Sum", "Strided"}
"""Functions with a derivative of their own whose second one is tested here, in ``test_sync_batchnorm.py`` or in
``test_products.py``.
"""

Tensors = dict[str, torch.Tensor]


def test_each_function_with_its_own_derivative_has_a_second_one_or_refuses() -> None:
    """A backward that PyTorch differentiates unasked may be wrong without an error."""
    silent = set()
    for path in (ROOT / "trainer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Function") for base in node.bases):
                backward = next(part for part in node.body if getattr(part, "name", "") == "backward")
                if "once_differentiable" not in ast.unparse(backward):
                    silent.add(node.name)
    assert silent == PROVEN


def test_a_layer_has_the_convolutions_second_derivative() -> None:
    """That of its products is in ``test_products.py``."""
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    layer = Doubling(3, 2, bias=False).double()
    (slope,) = grad(layer(images).square().sum(), images, create_graph=True)
    (found,) = grad(slope.square().sum(), layer.weight)
    (slope,) = grad(nn.ConvTranspose2d.forward(layer, images).square().sum(), images, create_graph=True)
    torch.testing.assert_close(found, grad(slope.square().sum(), layer.weight)[0], rtol=1e-12, atol=1e-12)


def check_one_rank() -> bool:
    """Of a layer with all inputs, and with fixed images, as in the first layer of a frozen stack."""
    dist.init_process_group("gloo")
    layer = SyncBatchNorm(3).double()
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=drawn) + 3
    weight, bias = (torch.randn(3, dtype=torch.float64, generator=drawn).requires_grad_() for _ in range(2))

    def normalise(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (values,))

    for values in (images.clone().requires_grad_(), images):
        assert gradcheck(normalise, (values, weight, bias))
        assert gradgradcheck(normalise, (values, weight, bias))
    return True


def test_batchnorm_over_ranks_has_a_second_derivative() -> None:
    assert on_ranks(1, check_one_rank) == [True]


def penalised() -> Tensors:
    """Gradients of D's loss with R1 and R2 (Mescheder et al., arXiv 1801.04406) on this rank's half of a batch, D's
    buffers, and the gradient of the penalty for the images.
    """
    network: nn.Module = DcganDiscriminator(32, 3, 4)
    initialise(network, 0)
    network.double().to(memory_format=torch.channels_last)
    drawn = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=drawn) for _ in range(2))
    buffers = dict(network.named_buffers())
    ranks = 1
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        ranks, rows = 2, slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
        real, fake = real[rows], fake[rows]
        synchronise(network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # as in trainer.ranks.process_group.wrap
            network = DistributedDataParallel(network, broadcast_buffers=False, gradient_as_bucket_view=True)
    real.requires_grad_()
    fake.requires_grad_()
    real_logits, fake_logits = network(real), network(fake)
    loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
    for images, logits in ((real, real_logits), (fake, fake_logits)):
        (slope,) = grad(logits.sum(), images, create_graph=True)
        loss = loss + slope.square().sum((1, 2, 3)).mean() / 2
    loss.backward()
    slopes = {name.removeprefix("module."): weight.grad.clone() for name, weight in network.named_parameters()}
    assert real.grad is not None
    return {**slopes, **buffers, "images": real.grad / ranks}  # DDP averages the others


def test_two_ranks_have_the_penalty_of_the_whole_batch() -> None:
    whole, halves = penalised(), on_ranks(2, penalised)
    for name, wanted in whole.items():
        parts = [half[name] for half in halves]
        for part in [torch.cat(parts)] if name == "images" else parts:
            torch.testing.assert_close(part, wanted, rtol=1e-10, atol=1e-12)
