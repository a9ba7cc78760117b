"""The generator as others load it: ``Generator.from_pretrained(DIR)``, or the name of a repository on the Hub.

Model cards of exports import this module by its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from shards.common.errors import InputError
from shards.common.urls import redact
from trainer.config import Kind, Model, Upsampling
from trainer.gan.factory import create_generator

CONFIG, WEIGHTS = "config.json", "model.safetensors"
REPOSITORY = re.compile(r"\w[\w.-]*/[\w.-]+", re.ASCII)  # on the Hub; everything else is a path


class Generator(nn.Module, PyTorchModelHubMixin, library_name="shardgan"):
    """Maps latents float32 (n, z_dim), drawn from N(0, 1), to images (n, channels, size, size) in [-1, 1].

    A class-conditional one also needs labels int64 (n,), the places of classes in ``class_names``.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        z_dim: int,
        features: int,
        kind: Kind = "dcgan",
        upsampling: Upsampling = "transposed",
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        model = Model(kind=kind, z_dim=z_dim, features_g=features, upsampling=upsampling)
        network = create_generator(model, size, channels, len(class_names))
        for name, layer in network.named_children():
            self.add_module(name, layer)  # not the network itself, so that keys of the state dict have no prefix
        self.z_dim, self.class_names, self._network = z_dim, tuple(class_names), (network,)  # a tuple hides it

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        images: torch.Tensor = self._network[0](latents, labels)
        return images

    def train(self, mode: bool = True) -> Self:
        """Networks without Tanh keep to [-1, 1] in ``eval`` mode only."""
        self._network[0].train(mode)
        return super().train(mode)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """Loads an exported folder, or a repository ``me/name`` of the Hub, on the CPU in ``eval`` mode, so that any
        BatchNorm uses its running statistics. The mixin documents ``options``.

        Raises:
            InputError: there is no such folder or repository, or it holds no whole exported generator.
            RuntimeError: the weights do not fit the network in config.json.
        """
        where = str(pretrained_model_name_or_path)
        if not Path(where).exists():
            where = os.path.expanduser(where)  # noqa: PTH111  # Path's raises without a home
        if isinstance(pretrained_model_name_or_path, str) and REPOSITORY.fullmatch(where) and not Path(where).exists():
            _check_repository(where, options)
        else:
            _check_folder(Path(where))
        try:
            return super().from_pretrained(where, **options)
        except (TypeError, ValueError, LookupError, AttributeError, SafetensorError) as error:
            raise InputError(f"{where} holds no whole exported generator ({_reason(error)}).") from error

    def _save_pretrained(self, save_directory: Path) -> None:
        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        (save_directory / WEIGHTS).write_bytes(save(weights, {"format": "pt"}))  # other libraries ask for the format

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:  # noqa: ARG003
        """Always strict: the mixin's default accepts a file that lacks weights."""
        model.load_state_dict(load(Path(model_file).read_bytes()))  # load_file needs names in UTF-8
        model.to(memory_format=torch.channels_last)  # as in training, so that the images have the same bits
        return model.eval()


def _check_folder(path: Path) -> None:
    """Raises ``InputError`` if ``path`` is no exported folder, and says what it is instead."""
    missing = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
    if not missing:
        return
    runs = [folder for folder in (path, *path.parents) if (folder / "config.yaml").is_file()]
    if not path.exists():
        problem = f"There is no folder {path}, and a repository of the Hub has a name like me/mnist-dcgan."
    elif path.is_file() and all((path.parent / name).is_file() for name in (CONFIG, WEIGHTS)):
        problem = f"{path} is a file. Give its folder, {path.parent}."
    else:
        problem = f"{path} is no exported generator: it holds no {' and no '.join(missing)}."
    if path.exists() and runs:
        problem += f" It belongs to a run. Export that: python -m trainer.export {runs[0]} OUT"
    raise InputError(problem)


def _check_repository(name: str, options: Mapping[str, Any]) -> None:
    """Raises ``InputError`` if the Hub cannot be reached, or has no such repository. The client would repeat requests
    for 23 s before it says so.
    """
    revision = options.get("revision")
    if isinstance(try_to_load_from_cache(name, CONFIG, options.get("cache_dir"), revision), str):
        return
    try:
        if options.get("local_files_only"):
            raise FileNotFoundError("it is not in the local cache")
        get_hf_file_metadata(hf_hub_url(name, CONFIG, revision=revision), token=options.get("token"))
    except Exception as error:  # as in `push`
        raise InputError(f"There is no folder {name}, and the Hub does not give {name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(redact(str(error)).split())


def push(path: Path, repository: str) -> str:
    """Uploads the folder or file ``path`` to ``repository``, private if it is new; returns its URL.

    Raises ``InputError`` if the Hub cannot be reached or refuses.
    """
    api = HfApi()
    try:
        url = api.create_repo(repository, private=True, exist_ok=True)
        if path.is_dir():
            api.upload_folder(repo_id=repository, folder_path=path)
        else:
            api.upload_file(repo_id=repository, path_or_fileobj=path, path_in_repo=path.name)
    except Exception as error:  # the client's own, and those of the HTTP library that its version is built on
        raise InputError(
            f"{path} is written, but could not be uploaded to {repository} on the Hub ({_reason(error)}). "
            "Log in with `hf auth login`, and give a name like me/mnist-dcgan."
        ) from error
    return str(url)
