"""Products against PyTorch's convolutions: exact in float64, and equal up to the rounding of the result in bf16."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from trainer.gan.kernels import products
from trainer.gan.kernels.products import (
    Products,
    Strided,
    convolution_gradients,
    convolve,
    down,
    under_autocast,
    up,
    weight_gradient,
)

SHAPES = [(3, 2, (4, 4)), (3, 2, (2, 4)), (3, 2, (1, 1)), (3, 2, (8, 8)), (3, 2, (3, 7)), (20, 128, (16, 16))]
"""Images, narrow channels and size; the last one is done in parts of 8, 8 and 4 images."""
SUBSETS: list[Products] = [
    frozenset(chosen) for chosen in chain(*(combinations(("forward", "images", "weight"), n) for n in range(4)))
]
ROUNDING = 2.0**-8  # of a bf16 number, relative to it


def drawn(count: int, narrow: int, size: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Small and large images, and a weight between 5 and ``narrow`` channels."""
    generator, doubled = torch.Generator().manual_seed(0), (2 * size[0], 2 * size[1])
    small, large, weight = (
        torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype, memory_format=torch.channels_last)
        for shape in ((count, 5, *size), (count, narrow, *doubled), (5, narrow, 4, 4))
    )
    return small, large, weight


@pytest.mark.parametrize(("count", "narrow", "size"), SHAPES)
@pytest.mark.parametrize("transposed", [True, False])
def test_a_layer_and_its_gradients_are_the_convolutions(
    count: int, narrow: int, size: tuple[int, int], transposed: bool
) -> None:
    check(drawn(count, narrow, size, torch.float64), transposed, products.ALL)


@pytest.mark.parametrize("passes", SUBSETS)
@pytest.mark.parametrize("transposed", [True, False])
def test_each_pass_may_be_a_product(transposed: bool, passes: Products) -> None:
    check(drawn(3, 2, (4, 2), torch.float64), transposed, passes)


def check(tensors: tuple[torch.Tensor, ...], transposed: bool, passes: Products) -> None:
    small, large, weight = tensors
    images, grad_output = (small, large) if transposed else (large, small)
    inputs = images.requires_grad_(), weight.requires_grad_()
    found, wanted = Strided.apply(*inputs, transposed, passes), convolve(*inputs, transposed=transposed)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad((wanted * grad_output).sum(), inputs)
    for one, other in zip(torch.autograd.grad((found * grad_output).sum(), inputs), gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("count", "narrow", "size"), SHAPES)
def test_both_ways_to_enlarge_are_the_convolution(count: int, narrow: int, size: tuple[int, int]) -> None:
    small, _, weight = drawn(count, narrow, size, torch.float64)
    wanted = convolve(small, weight, transposed=True)
    for way in (products._up_from_windows, products._up_to_patches):
        torch.testing.assert_close(way(small, weight), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("count", "narrow", "size"), SHAPES)
def test_in_bf16_a_product_is_the_exact_result_rounded_once(count: int, narrow: int, size: tuple[int, int]) -> None:
    """float32 sums of a few hundred terms add an error far below that of one rounding."""
    small, large, weight = drawn(count, narrow, size, torch.bfloat16)
    for found, images, transposed in ((up(small, weight), small, True), (down(large, weight), large, False)):
        assert found.dtype == torch.bfloat16
        wanted = convolve(images.double(), weight.double(), transposed=transposed)
        torch.testing.assert_close(found.double(), wanted, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize(("count", "narrow", "size"), SHAPES)
def test_in_bf16_the_gradient_of_the_weight_is_rounded_once_more_for_each_part(
    count: int, narrow: int, size: tuple[int, int]
) -> None:
    small, large, weight = drawn(count, narrow, size, torch.bfloat16)
    sums = [
        exact_weight_gradient(small[part], large[part], weight)
        for part in products._parts(count, size[0] * size[1], 16 * narrow)
    ]
    allowed = ROUNDING * (sum(sums).abs() + sum(each.abs() for each in sums)) + 1e-4
    found = weight_gradient(small, large)
    assert found.dtype == torch.bfloat16
    assert ((found.double() - sum(sums)).abs() <= allowed).all()


@pytest.mark.parametrize("transposed", [True, False])
def test_in_bf16_a_layer_with_a_bias_rounds_twice(transposed: bool) -> None:
    small, large, weight = drawn(3, 2, (4, 4), torch.bfloat16)
    images = small if transposed else large
    bias = torch.linspace(-3, 3, weight.shape[transposed]).bfloat16()
    exact = convolve(images.double(), weight.double(), transposed=transposed)
    wanted = exact + bias.double()[:, None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = under_autocast(images.float(), weight.float(), bias.float(), products.ALL, transposed=transposed)
    assert found.dtype == torch.bfloat16
    assert ((found.double() - wanted).abs() <= ROUNDING * (exact.abs() + wanted.abs()) + 1e-4).all()


def exact_weight_gradient(small: torch.Tensor, large: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    exact = (values.double() for values in (large, small, weight))
    found = convolution_gradients(*exact, [False, True], transposed=True)[1]
    assert found is not None
    return found


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("passes", [SUBSETS[0], SUBSETS[-1]])
def test_a_layer_has_the_convolutions_second_derivative(size: int, transposed: bool, passes: Products) -> None:
    small, large, weight = (values.contiguous().requires_grad_() for values in drawn(2, 2, (size, size), torch.float64))
    inputs = (small if transposed else large, weight)

    def layer(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = Strided.apply(images, weight, transposed, passes)
        return out

    assert gradcheck(layer, inputs, fast_mode=True)
    assert gradgradcheck(layer, inputs, fast_mode=True)


@pytest.mark.parametrize("leaf", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("passes", [SUBSETS[0], SUBSETS[-1]])
def test_a_penalty_computes_no_gradient_of_the_weight(
    leaf: bool, transposed: bool, passes: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has the convolution's derivatives by both."""
    small, large, weight = (values.requires_grad_() for values in drawn(2, 2, (4, 4), torch.float64))
    images = small if transposed else large

    def derivatives(*, ours: bool) -> tuple[torch.Tensor, ...]:
        kernel = weight if leaf else weight * 2
        out = (
            Strided.apply(images, kernel, transposed, passes)
            if ours
            else convolve(images, kernel, transposed=transposed)
        )
        with monkeypatch.context() as patched:
            patched.delattr(f"{products.__name__}.conv2d_weight")
            (gradient,) = torch.autograd.grad(out.square().sum(), images, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (images, weight))

    for found, wanted in zip(derivatives(ours=True), derivatives(ours=False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


@pytest.mark.parametrize("leaf", [True, False])
def test_a_derivative_by_the_weight_alone_computes_no_gradient_of_the_images(
    leaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, large, weight = drawn(2, 2, (4, 4), torch.float64)
    kernel = weight.requires_grad_() if leaf else weight.requires_grad_() * 2
    out = Strided.apply(large.requires_grad_(), kernel, False, products.ALL)
    monkeypatch.delattr(f"{products.__name__}.convolve")
    (gradient,) = torch.autograd.grad(out.sum(), kernel, create_graph=True)
    assert gradient.requires_grad


def test_a_frozen_layer_computes_no_gradient_of_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the discriminator in the generator's step."""
    monkeypatch.delattr(f"{products.__name__}.weight_gradient")
    _, large, weight = drawn(1, 2, (4, 4), torch.float64)
    Strided.apply(large.requires_grad_(), weight, False, SUBSETS[-1]).sum().backward()
    assert weight.grad is None
    assert large.grad is not None
