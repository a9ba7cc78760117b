"""The one place that builds networks, from a config or from what a checkpoint recorded about them.

A new architecture is a module beside ``dcgan.py``, an entry here and a name in ``trainer.config.Kind``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from trainer.config import Kind, Model, Normalisation, Upsampling
from trainer.gan.coarse import VERSION
from trainer.gan.dcgan import DcganDiscriminator, DcganGenerator
from trainer.gan.mlp import MlpDiscriminator, MlpGenerator
from trainer.gan.networks import Discriminator, Generator
from trainer.gan.residual import ResidualDiscriminator, ResidualGenerator

GENERATORS: dict[str, Callable[[Model, int, int, int], Generator]] = {
    "dcgan": lambda m, size, channels, classes: DcganGenerator(
        size, channels, m.z_dim, m.features_g, m.upsampling, classes=classes
    ),
    "mlp": lambda m, size, channels, classes: MlpGenerator(size, channels, m.z_dim, m.features_g, classes=classes),
    "residual": lambda m, size, channels, classes: ResidualGenerator(
        size, channels, m.z_dim, m.features_g, classes=classes
    ),
}
DISCRIMINATORS: dict[str, Callable[[Model, int, int, int], Discriminator]] = {
    "dcgan": lambda m, size, channels, classes: DcganDiscriminator(
        size, channels, m.features_d, m.norm_d, coarse=m.coarse_d, classes=classes
    ),
    "mlp": lambda m, size, channels, classes: MlpDiscriminator(size, channels, m.features_d, classes=classes),
    "residual": lambda m, size, channels, classes: ResidualDiscriminator(
        size, channels, m.features_d, coarse=m.coarse_d, classes=classes
    ),
}
RECORDED = ("kind", "z_dim", "features_g", "features_d", "norm_d", "coarse_d", "upsampling")
"""Fields of ``Model`` that decide layers, names and shapes of the weights."""
CHOICES = {"kind": get_args(Kind), "norm_d": get_args(Normalisation), "upsampling": get_args(Upsampling)}


class UnknownNetworks(ValueError):
    """Networks that another version of shardgan made."""


def create_networks(model: Model, size: int, channels: int, classes: int = 0) -> tuple[Generator, Discriminator]:
    """Generator and discriminator of ``model`` for images (n, channels, size, size), of so many classes.

    Their weights are not a function of the seed yet: see :func:`trainer.gan.networks.initialise`.
    Raises ``ValueError`` if there are no networks of this kind or size.
    """
    return create_generator(model, size, channels, classes), create_discriminator(model, size, channels, classes)


def create_generator(model: Model, size: int, channels: int, classes: int = 0) -> Generator:
    """The first network of :func:`create_networks` alone."""
    if model.kind not in GENERATORS:
        raise ValueError(f"there are no networks of kind {model.kind!r}")
    return GENERATORS[model.kind](model, size, channels, classes)


def create_discriminator(model: Model, size: int, channels: int, classes: int = 0) -> Discriminator:
    """The second network of :func:`create_networks` alone."""
    return DISCRIMINATORS[model.kind](model, size, channels, classes)


def describe_networks(model: Model, size: int, channels: int, classes: Sequence[str] = ()) -> dict[str, Any]:
    """What a checkpoint records of its networks, JSON-ready; the argument of :func:`restore_networks`. ``classes`` are
    names.
    """
    fields = asdict(model)
    recorded = {name: fields[name] for name in RECORDED}
    version = VERSION if _has_coarse_part(model) else 0
    return {**recorded, "coarse_version": version, "size": size, "channels": channels, "classes": [*classes]}


def restore_networks(description: Mapping[str, Any]) -> tuple[Generator, Discriminator]:
    """The networks that ``description`` describes. Fields of ``Model`` that its version did not have are the default.
    The discriminator has no coarse part if that was :func:`outdated`.

    Raises:
        KeyError: the size or the channels are missing.
        UnknownNetworks: there are no such networks.
        ValueError: there are none of this size.
    """
    for name, choices in CHOICES.items():
        if description.get(name, choices[0]) not in choices:
            raise UnknownNetworks(f"{name} {description[name]!r}; it must be one of {', '.join(choices)}")
    model = _recorded_model(description)
    if outdated(description):
        model = replace(model, coarse_d=False)
    classes = len(description.get("classes", ()))
    return create_networks(model, description["size"], description["channels"], classes)


def outdated(description: Mapping[str, Any]) -> bool:
    """Whether the discriminator of ``description`` has a coarse part that only an older version makes. Nothing but a
    training needs it.
    """
    return _has_coarse_part(_recorded_model(description)) and description.get("coarse_version") != VERSION


def _recorded_model(description: Mapping[str, Any]) -> Model:
    return Model(**{name: description[name] for name in RECORDED if name in description})


def _has_coarse_part(model: Model) -> bool:
    return model.coarse_d and model.kind != "mlp"
