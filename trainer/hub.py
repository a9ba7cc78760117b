"""The generator as others load it: ``Generator.from_pretrained(DIR)``, or the name of a repository on the Hub.

Model cards of exports import this module by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import nn

from shards.common.errors import InputError
from shards.common.urls import redact
from trainer.config import Kind, Model
from trainer.gan.factory import create_generator


class Generator(nn.Module, PyTorchModelHubMixin, library_name="shardgan"):
    """Maps latents float32 (n, z_dim), drawn from N(0, 1), to images (n, channels, size, size) in [-1, 1].

    ``from_pretrained`` returns it on the CPU in ``eval`` mode, so any BatchNorm uses its running statistics. It raises
    ``RuntimeError`` if the weights do not fit the network in config.json.
    """

    def __init__(self, size: int, channels: int, z_dim: int, features: int, kind: Kind = "dcgan") -> None:
        super().__init__()
        network = create_generator(Model(kind=kind, z_dim=z_dim, features_g=features), size, channels)
        for name, layer in network.named_children():
            self.add_module(name, layer)  # not the network itself, so that keys of the state dict have no prefix
        self.z_dim, self._draw = z_dim, network.forward

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self._draw(latents)
        return images

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:  # noqa: ARG003
        """Always strict: the mixin's default accepts a file that lacks weights."""
        model.load_state_dict(load_file(model_file, map_location))
        return model.eval()


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
        reason = " ".join(redact(str(error)).split())
        raise InputError(
            f"{path} is written, but could not be uploaded to {repository} on the Hub ({reason}). "
            "Log in with `hf auth login`, and give a name like me/mnist-dcgan."
        ) from error
    return str(url)
