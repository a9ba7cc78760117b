from __future__ import annotations

import json
from dataclasses import asdict
from typing import get_args

import pytest
import torch

from trainer.config import Kind, Model
from trainer.gan.factory import RECORDED, create_networks, describe_networks, restore_networks
from trainer.gan.networks import SIZES, has_batch_norm, initialise

KINDS = get_args(Kind)
MODELS = {
    **{kind: Model(kind=kind, z_dim=7, features_g=2, features_d=3) for kind in KINDS},
    "none-nearest": Model(z_dim=7, features_g=2, features_d=3, norm_d="none", upsampling="nearest"),
    "coarse": Model(z_dim=7, features_g=2, features_d=3, norm_d="none", coarse_d=True),
    "residual-coarse": Model(kind="residual", z_dim=7, features_g=2, features_d=3, coarse_d=True),
}
"""Every architecture, and every choice within one."""
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@every_model
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_logits_have_their_shapes(model: Model, size: int, channels: int) -> None:
    generator, discriminator = create_networks(model, size, channels)
    images = generator.eval()(1000 * torch.randn(3, generator.z_dim))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    logits = discriminator.eval()(1e6 * torch.randn(2, channels, size, size))
    assert logits.shape == (2,)
    assert logits.abs().max() > 1, "unbounded"
    assert has_batch_norm(discriminator) == (model.kind == "dcgan" and model.norm_d == "batch")


@every_model
def test_a_description_restores_the_same_networks(model: Model) -> None:
    names = ("a", "b")
    for classes in ((), names):
        description = json.loads(json.dumps(describe_networks(model, 64, 3, classes)))
        for network, restored in zip(
            create_networks(model, 64, 3, len(classes)), restore_networks(description), strict=True
        ):
            assert restored.classes == len(classes)
            restored.load_state_dict(network.state_dict())
    networks = create_networks(model, 64, 3)
    description = json.loads(json.dumps(describe_networks(model, 64, 3)))
    for network, restored in zip(networks, restore_networks(description), strict=True):
        assert type(network) is type(restored)
        restored.load_state_dict(network.state_dict())
    for name in RECORDED:  # each was added by some version
        older = {key: value for key, value in description.items() if key != name}
        fields = {**asdict(model), name: asdict(Model())[name]}
        for network, restored in zip(create_networks(Model(**fields), 64, 3), restore_networks(older), strict=True):
            restored.load_state_dict(network.state_dict())
    del description["size"]
    with pytest.raises(KeyError):
        restore_networks(description)


@every_model
@torch.no_grad()
def test_conditional_networks_take_labels(model: Model) -> None:
    """Before training, the discriminator judges all classes alike, as its unconditional twin does."""
    generator, discriminator = create_networks(model, 32, 1, 5)
    for seed, network in enumerate((generator, discriminator)):
        initialise(network, seed)
        network.double().eval()
    noise, labels = torch.randn(1, 7).double().expand(3, -1), torch.tensor([0, 4, 4])
    images = generator(noise, labels)
    assert torch.allclose(images[1], images[2], rtol=1e-12) and not torch.allclose(images[0], images[1], rtol=1e-7)
    mixture = torch.tensor([[1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0], [0.5, 0, 0, 0, 0.5]]).double()
    mixed = generator(noise, mixture)
    torch.testing.assert_close(mixed[:2], images[:2])
    assert not any(torch.allclose(mixed[2], image, rtol=1e-7) for image in images)
    twin = create_networks(model, 32, 1)[1]
    initialise(twin, 1)
    twin.double().eval()
    assert torch.equal(discriminator(images, labels), twin(images))
    torch.nn.init.normal_(discriminator.get_parameter("projection.weight"))
    by_class = (discriminator(images[:1].expand(3, -1, -1, -1), labels) - twin(images[:1])).tolist()
    assert by_class[1] == pytest.approx(by_class[2]) and by_class[0] != pytest.approx(by_class[1])
    for network, inputs in ((generator, noise), (discriminator, images)):
        with pytest.raises(ValueError, match="5 classes gets no labels"):
            network(inputs)
    with pytest.raises(ValueError, match="0 classes gets labels"):
        twin(images, labels)


@every_model
def test_every_weight_is_a_function_of_the_seed(model: Model) -> None:
    for number in (0, 1):
        first, second, other = (create_networks(model, 32, 1, 4)[number] for _ in range(3))
        for network, seed in ((first, 3), (second, 3), (other, 4)):
            initialise(network, seed)
        for name, weight in first.state_dict().items():
            assert torch.equal(weight, second.state_dict()[name])
        for name, weight in first.named_parameters():
            constant = weight.unique().numel() == 1  # BatchNorm's biases, and what starts at 0
            assert constant or not torch.equal(weight, other.state_dict()[name]), name


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_generator_without_memory_takes_all_from_its_weights(model: Model, dtype: torch.dtype) -> None:
    """As samples of a training are drawn, and as a checkpoint is loaded."""
    generator = create_networks(model, 32, 3)[0].to(dtype).eval()
    with torch.device("meta"):
        empty = create_networks(model, 32, 3)[0].eval()
    empty.load_state_dict(generator.state_dict(), assign=True)
    noise = torch.randn(2, generator.z_dim, dtype=dtype)
    assert torch.equal(empty(noise), generator(noise))


@every_model
def test_activations_are_those_of_the_hidden_layers(model: Model) -> None:
    _, discriminator = create_networks(model, 32, 1)
    images = torch.randn(4, 1, 32, 32)
    activations = discriminator.eval().activations(images)
    assert len(activations) >= 2
    assert all(len(layer) == 4 and layer.dim() in (2, 4) for layer in activations)
    changed = discriminator.activations(torch.cat([images[:2], -images[2:]]))
    for before, after in zip(activations, changed, strict=True):
        assert torch.allclose(before[:2], after[:2]) and not torch.allclose(before[2:], after[2:])


@every_model
@pytest.mark.parametrize("size", [0, 16, 48, 512])
def test_other_sizes_are_refused(model: Model, size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        create_networks(model, size, 3)


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 'vae'"):
        create_networks(Model(kind="vae"), 64, 3)  # type: ignore[arg-type]
