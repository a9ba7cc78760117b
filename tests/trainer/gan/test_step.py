from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from shards.format.manifest import Manifest, Shard
from tests.support.launching import ROOT
from tests.support.reference_dcgan import Tutorial
from trainer.config import Config, Loss, Model
from trainer.gan.augmentation import FAKE, FAKE_FOR_G, REAL, REAL_FOR_G, augment, draw
from trainer.gan.losses import discriminator_loss
from trainer.gan.noise import latents
from trainer.gan.state import State, create_state, find_non_finite
from trainer.gan.step import Part, Step
from trainer.recipe import Augment, Optim, Penalty, Schedule

GOLDEN = ROOT / "tests" / "golden" / "losses.json"
BATCH = 16
CLASSES = 3  # of conditional networks
CPU = torch.device("cpu")
NETWORKS = ("discriminator", "generator")


def manifest(size: int = 64, channels: int = 3) -> Manifest:
    return Manifest("test", "npy", size, channels, (Shard("a.tar", 1000, 1, ""),), "")


def small(loss: Loss = "non-saturating", d_steps: int = 1, dtype: str = "float32") -> Config:
    model = Model(z_dim=20, features_g=8, features_d=8)
    return Config(model=model, batch_size=BATCH, loss=loss, d_steps=d_steps, dtype=dtype)  # type: ignore[arg-type]


def penalised(every: int = 2, **more: Any) -> Config:
    """The relativistic loss with R1 and R2, and a schedule, for a discriminator without BatchNorm."""
    schedule = Schedule(images=10 * BATCH, lr_g=1e-5, lr_d=2e-5, beta2=0.9, r1=0.5, r2=3.0)
    model, penalty = replace(small().model, kind="mlp"), Penalty(r1=1.0, r2=2.0, every=every)
    return replace(small("relativistic"), **{"model": model, "penalty": penalty, "schedule": schedule} | more)


COARSE = penalised(
    model=replace(small().model, norm_d="none", coarse_d=True, upsampling="nearest"),
    augment=Augment("color,translation,cutout", 0.7),
)
"""Other networks of kind dcgan, which see augmented images."""


def conditional(config: Config) -> Config:
    return replace(config, model=replace(config.model, conditional=True))


def classes_of(config: Config) -> int:
    return CLASSES if config.model.conditional else 0


def create(config: Config, device: torch.device = CPU) -> tuple[State, Step]:
    state = create_state(config, manifest().size, manifest().channels, device, classes=classes_of(config))
    return state, Step(state, state.generator, state.discriminator, config)


def reals(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    noise = latents(99, number * BATCH, BATCH, 3 * 64 * 64).reshape(BATCH, 64, 64, 3)
    return noise.clamp(-1, 1).to(dtype).permute(0, 3, 1, 2)


def noise(number: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return latents(0, number * BATCH, BATCH, 20).to(dtype)


def drawn(config: Config, number: int) -> list[torch.Tensor]:
    """Numbers of the augmentation, if the run has one."""
    return [draw(0, number * BATCH, BATCH)] if config.augment.names else []


def labelled(config: Config, number: int) -> list[torch.Tensor]:
    """Labels of the real images, if the run has classes; they are not balanced."""
    images = range(number * BATCH, (number + 1) * BATCH)
    return [torch.tensor([image * image % CLASSES for image in images])] if config.model.conditional else []


def in_parts(config: Config, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each batch in its parts, as a step takes them."""
    return [part for batch in batches for part in batch.chunk(config.accumulate)]


def weights(network: nn.Module) -> list[torch.Tensor]:
    return [value.detach().clone() for value in network.state_dict().values()]


def start_equal(config: Config) -> tuple[State, Step, Tutorial]:
    state, step = create(config)
    tutorial = Tutorial(channels=3, z_dim=20, features=8, dtype=next(state.generator.parameters()).dtype)
    for theirs, ours in ((tutorial.generator, state.generator), (tutorial.discriminator, state.discriminator)):
        theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    return state, step, tutorial


@torch.no_grad()
def test_outputs_are_the_tutorials() -> None:
    state, _, tutorial = start_equal(small(dtype="float64"))
    for training in (False, True):
        for network in (state.generator, state.discriminator, tutorial.generator, tutorial.discriminator):
            network.train(training)
        z = noise(9, torch.float64)
        images, theirs = state.generator(z), tutorial.generator(z[:, :, None, None])
        torch.testing.assert_close(images, theirs, rtol=0, atol=1e-12)
        scores = state.discriminator(images).sigmoid()
        torch.testing.assert_close(scores, tutorial.discriminator(theirs).flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
@pytest.mark.parametrize(("dtype", "tolerance", "share"), [(torch.float32, 1e-6, 0.995), (torch.float64, 1e-10, 1.0)])
def test_losses_and_first_update_are_the_tutorials(
    loss: Loss, dtype: torch.dtype, tolerance: float, share: float
) -> None:
    """Adam's first update is lr * g / (|g| + 1e-8):

    in float32, a g that is itself rounding error may differ in sign.
    """
    state, step, tutorial = start_equal(small(loss, dtype=str(dtype).removeprefix("torch.")))
    metrics = step([reals(0, dtype)], [noise(0, dtype)], report=True)
    loss_d, loss_g = tutorial.step(reals(0, dtype), noise(0, dtype), minimax=loss == "minimax")

    assert metrics["loss/d"].item() == pytest.approx(loss_d, abs=tolerance)
    assert metrics["loss/g"].item() == pytest.approx(loss_g, abs=tolerance)
    for ours, theirs in ((state.generator, tutorial.generator), (state.discriminator, tutorial.discriminator)):
        for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)
        off = torch.cat([(a - b).abs().flatten() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)])
        assert (off <= tolerance).double().mean() >= share


def test_a_generator_step_leaves_no_gradient_in_the_discriminator() -> None:
    state, step = create(small())
    step([reals(0)], [noise(0)], report=False)
    before = [parameter.grad.clone() for parameter in state.discriminator.parameters() if parameter.grad is not None]
    part = Part(reals(1), noise(1), torch.empty(0), None)
    step._generator_step([part], [state.generator(part.latent)], report=False)
    after = [parameter.grad for parameter in state.discriminator.parameters() if parameter.grad is not None]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in state.discriminator.parameters())


def test_reporting_changes_no_weight() -> None:
    one, two = create(small()), create(small())
    for number in range(3):
        one[1]([reals(number)], [noise(number)], report=True)
        two[1]([reals(number)], [noise(number)], report=False)
    for network in ("generator", "discriminator"):
        for mine, other in zip(weights(getattr(one[0], network)), weights(getattr(two[0], network)), strict=True):
            assert torch.equal(mine, other)


def test_k_discriminator_steps_are_k_updates_of_d_and_one_of_g() -> None:
    state, step = create(small(d_steps=3))
    step([reals(n) for n in range(3)], [noise(n) for n in range(3)], report=False)
    counts = [
        {int(tensor) for name, tensor in optimizer.tensors().items() if name.endswith(".step")}
        for optimizer in (state.discriminator_optim, state.generator_optim)
    ]
    assert counts == [{3}, {1}]


def test_gradient_norms_are_those_of_the_gradients() -> None:
    state, step = create(small(dtype="float64"))
    metrics = step([reals(0, torch.float64)], [noise(0, torch.float64)], report=True)
    squares = sum(float((p.grad**2).sum()) for p in state.generator.parameters() if p.grad is not None)
    assert metrics["gradient/g"].item() == pytest.approx(squares**0.5, rel=1e-12)


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_discriminators_gradients_are_those_of_loss_and_penalties(loss: Loss) -> None:
    """Of each image alone, weighted with half of gamma times the steps between penalties."""
    config = penalised(every=4, loss=loss, dtype="float64", optim=Optim(lr_d=0.0), schedule=Schedule())
    state, step = create(config)
    real, latent = reals(0, torch.float64), noise(0, torch.float64)
    fake = state.generator(latent).detach()
    metrics = step([real], [latent], report=True)
    network = state.discriminator
    found = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    real_logits, fake_logits = network(real), network(fake)
    if loss == "relativistic":
        total = softplus(fake_logits - real_logits).mean()
    else:
        total = discriminator_loss(real_logits, fake_logits, loss)
    assert metrics["loss/d"].item() == pytest.approx(total.item())
    for name, images in (("r1", real), ("r2", fake)):
        norms = []
        for image in images:
            image = image[None].clone().requires_grad_()
            (slope,) = torch.autograd.grad(network(image)[0], image, create_graph=True)
            norms.append(slope.square().sum())
        penalty = {"r1": 1.0, "r2": 2.0}[name] / 2 * torch.stack(norms).mean()
        assert metrics[f"penalty/{name}"].item() == pytest.approx(penalty.item())
        total = total + 4 * penalty
    wanted = torch.autograd.grad(total, list(network.parameters()))
    torch.testing.assert_close(found, list(wanted), rtol=1e-10, atol=1e-14)
    norm = torch.stack([gradient.square().sum() for gradient in wanted]).sum().sqrt()
    assert metrics["gradient/d"].item() == pytest.approx(norm.item())


@pytest.mark.parametrize("names", [("r1",), ("r2",), ("r1", "r2")])
def test_lazy_penalties_come_every_so_many_steps(names: tuple[str, ...]) -> None:
    config = penalised(penalty=Penalty(**dict.fromkeys(names, 1.0), every=3), schedule=Schedule())  # type: ignore[arg-type]
    state, step = create(config)
    for number in range(5):
        metrics = step([reals(number)], [noise(number)], report=False)
        found = tuple(name.removeprefix("penalty/") for name in metrics if name.startswith("penalty/"))
        assert found == (names if number % 3 == 0 else ())
        state.step += 1


@pytest.mark.parametrize("loss", get_args(Loss))
def test_the_discriminator_sees_augmented_images_only(loss: Loss) -> None:
    """Real and generated ones, in its step and in the generator's, each by numbers of their own."""
    config = replace(small(loss, dtype="float64"), augment=Augment("color,translation,cutout", 0.5))
    state, step = create(config)
    real, latent, numbers = reals(0, torch.float64), noise(0, torch.float64), draw(0, 0, BATCH)
    fake, half = state.generator(latent).detach(), torch.full((), 0.5, dtype=torch.float64)
    seen: list[torch.Tensor] = []
    state.discriminator.register_forward_pre_hook(lambda _, images: seen.append(images[0].detach()))
    step([real], [latent], [numbers], report=False)
    uses = [(real, REAL), (fake, FAKE), (fake, FAKE_FOR_G), (real, REAL_FOR_G)]
    expected = [augment(images, numbers[:, use], config.augment.names, half) for images, use in uses]
    for mine, one in zip(seen, expected if loss == "relativistic" else expected[:3], strict=True):
        torch.testing.assert_close(mine, one, rtol=0, atol=1e-12)
    assert not torch.equal(seen[1], seen[2])
    with pytest.raises(IndexError):
        step([real], [latent], report=False)


@pytest.mark.parametrize("loss", get_args(Loss))
@pytest.mark.parametrize("accumulate", [1, 2])
def test_both_networks_get_the_classes_of_the_real_images(loss: Loss, accumulate: int) -> None:
    """A generated image is of the class of the real one with its index, with which a relativistic loss pairs it."""
    config = replace(conditional(small(loss, d_steps=2)), accumulate=accumulate)
    state, step = create(config)
    asked: list[torch.Tensor] = []
    judged: list[torch.Tensor] = []
    state.generator.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    state.discriminator.register_forward_pre_hook(lambda _, inputs: judged.append(inputs[1]))
    labels = [labelled(config, number)[0] for number in range(2)]
    batches = ([reals(0), reals(1)], [noise(0), noise(1)], [], labels)
    step(*[in_parts(config, column) for column in batches], report=False)
    first, second = (batch.chunk(accumulate) for batch in labels)
    again = second if accumulate > 1 else ()  # the generator's step draws the parts anew
    uses = 2 if loss == "relativistic" else 1
    wanted = [part for batch in (first, second) for part in batch for _ in range(2)]
    wanted += [part for part in second for _ in range(uses)]
    for found, expected in ((asked, [*first, *second, *again]), (judged, wanted)):
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]


def test_each_class_learns_from_its_own_images() -> None:
    """Both networks' vectors of a class that is not in a batch stay as they are."""
    config = conditional(penalised())
    state, step = create(config)
    vectors = [
        state.generator.get_parameter("embedding.weight"),
        state.discriminator.get_parameter("projection.weight"),
    ]
    before = [vector.detach().clone() for vector in vectors]
    step([reals(0)], [noise(0)], [], [torch.arange(BATCH) % 2], report=False)
    for old, new in zip(before, vectors, strict=True):
        assert (old != new).any(1).tolist() == [True, True, False]


def test_an_augmentation_of_probability_0_changes_no_bit() -> None:
    plain, other = create(penalised()), create(penalised(augment=Augment("color,translation,cutout", 0.0)))
    assert plain[1]([reals(0)], [noise(0)], report=True) == other[1](
        [reals(0)], [noise(0)], [draw(0, 0, BATCH)], report=True
    )
    for mine, one in zip(plain[0].tensors().values(), other[0].tensors().values(), strict=True):
        assert all(torch.equal(mine[name], one[name]) for name in mine)


def test_a_step_has_the_settings_of_its_position() -> None:
    """The first update of Adam moves a weight by the learning rate, and the mean of its squared gradients by beta2."""
    state, step = create(penalised(schedule=Schedule(images=100, lr_g=2e-3, lr_d=1e-3, beta2=0.5, r1=4.0)))
    state.position = 100
    before = {name: weights(getattr(state, name)) for name in NETWORKS}
    metrics = step([reals(0)], [noise(0)], report=False)
    for name, rate in (("generator", 2e-3), ("discriminator", 1e-3)):
        moved = [(a - b).abs() for a, b in zip(before[name], weights(getattr(state, name)), strict=True)]
        assert torch.cat([part.flatten() for part in moved]).max().item() == pytest.approx(rate, rel=1e-3)
    tensors, (name, weight) = state.discriminator_optim.tensors(), next(iter(state.discriminator.named_parameters()))
    assert weight.grad is not None
    torch.testing.assert_close(tensors[f"{name}.exp_avg_sq"], weight.grad.square() / 2)
    twin = create(penalised(schedule=Schedule()))[1]([reals(0)], [noise(0)], report=False)
    assert metrics["penalty/r1"].item() == pytest.approx(4 * twin["penalty/r1"].item())
    assert metrics["penalty/r2"] == twin["penalty/r2"]


@pytest.mark.parametrize(("position", "ended"), [(50, False), (100, True)])
def test_an_augmentation_ends_with_its_schedule(position: int, ended: bool) -> None:
    policy, schedule = Augment("color,translation,cutout"), Schedule(images=100, augment=0.0)
    plain, plain_step = create(penalised(schedule=Schedule()))
    state, step = create(penalised(augment=policy, schedule=schedule))
    step.tune()  # a run begins at position 0
    plain.position = state.position = position
    wanted = plain_step([reals(0)], [noise(0)], report=True)
    assert (step([reals(0)], [noise(0)], [draw(0, 0, BATCH)], report=True) == wanted) == ended


def test_a_relativistic_generator_step_is_against_the_updated_discriminator() -> None:
    state, step = create(small("relativistic", dtype="float64"))
    real, latent = reals(0, torch.float64), noise(0, torch.float64)
    fake = state.generator(latent).detach()
    metrics = step([real], [latent], report=False)
    with torch.no_grad():  # BatchNorm uses the batch in training
        expected = softplus(state.discriminator(real) - state.discriminator(fake))
    assert metrics["loss/g"].item() == pytest.approx(expected.mean().item())


@pytest.mark.parametrize("loss", get_args(Loss))
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_changes_nothing_but_rounding(loss: Loss, accumulate: int) -> None:
    """With penalties in every second step, augmentation, a schedule, classes, and two updates of the discriminator a
    step.
    """
    config = penalised(loss=loss, dtype="float64", d_steps=2, augment=Augment("color,translation,cutout", 0.7))
    config = conditional(config)
    found = []
    for parts in (1, accumulate):
        state, step = create(replace(config, accumulate=parts))
        rows = []
        for number in (0, 2, 4):
            pair = (number, number + 1)
            batches = [[batch(n, torch.float64) for n in pair] for batch in (reals, noise)]
            batches += [[draw(config, n)[0] for n in pair] for draw in (drawn, labelled)]
            rows.append(step(*[in_parts(step.config, column) for column in batches], report=True))
            state.step, state.position = state.step + 1, state.position + 2 * BATCH
        found.append((rows, state.tensors()))
    torch.testing.assert_close(*found, rtol=0, atol=1e-10)


def scaled() -> tuple[State, Step]:
    """As under fp16, whose scaler knows no device: everything that happens to scaled losses and overflows."""
    state = replace(create(small())[0], scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    return state, Step(state, state.generator, state.discriminator, small())


@pytest.mark.parametrize("report", [False, True])
def test_scaling_by_a_power_of_two_changes_no_bit(report: bool) -> None:
    plain, other = create(small()), scaled()
    rows = [[step([reals(n)], [noise(n)], report=report) for n in range(3)] for _, step in (plain, other)]
    assert rows[0] == rows[1]
    for mine, one in zip(plain[0].tensors().values(), other[0].tensors().values(), strict=True):
        assert all(torch.equal(mine[name], one[name]) for name in mine)


@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("network", ["discriminator", "generator"])
def test_an_overflow_skips_the_step_of_its_network_only(network: str, report: bool) -> None:
    state, step = scaled()
    before = {name: [p.detach().clone() for p in getattr(state, name).parameters()] for name in NETWORKS}
    last = list(getattr(state, network).parameters())[-1]
    handle = last.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    step([reals(0)], [noise(0)], report=report)
    handle.remove()
    for name in NETWORKS:
        optimizer = getattr(state, f"{name}_optim")
        pairs = zip(before[name], getattr(state, name).parameters(), strict=True)
        moved = [not torch.equal(old, new) for old, new in pairs]
        assert moved == [name != network] * len(moved)
        assert optimizer.skipped.item() == (name == network)
    assert state.scaler.get_scale() == 512 and not any(find_non_finite(state.tensors()).values())
    step([reals(1)], [noise(1)], report=report)
    assert [getattr(state, f"{name}_optim").skipped.item() for name in NETWORKS] == [n == network for n in NETWORKS]
    assert not any(find_non_finite(state.tensors()).values())


def test_losses_of_a_short_float32_run_are_golden() -> None:
    """Guards refactors: regenerate (``python -m tests.trainer.gan.test_step``) only to change the mathematics."""
    golden = json.loads(GOLDEN.read_text())
    for name, figures in short_run().items():
        # Adversarial steps amplify a processor's rounding: by about ten a step.
        for figure, expected, tolerance in zip(figures, golden[name], (1e-5, 1e-4, 1e-3, 1e-2, 3e-2), strict=True):
            assert figure == pytest.approx(expected, rel=tolerance), name


def short_run() -> dict[str, list[float]]:
    _, step = create(small())
    rows = [step([reals(number)], [noise(number)], report=True) for number in range(5)]
    return {name: [row[name].item() for row in rows] for name in rows[0]}


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(short_run(), indent=1) + "\n")
