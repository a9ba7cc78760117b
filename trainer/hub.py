"""The generator as others load it: ``Generator.from_pretrained(DIR)``, or the name of a repository on the Hub.

Apart from ``networks.py``: what the mixin imports costs 0.2 s, which no start of a training should pay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, PyTorchModelHubMixin

from shards.common.errors import InputError
from shards.common.urls import redact
from trainer.gan import networks


class Generator(networks.Generator, PyTorchModelHubMixin, library_name="shardgan"):
    """Latents float32 (n, z_dim), drawn from N(0, 1), to images (n, channels, size, size) in [-1, 1].

    What ``from_pretrained`` returns is on the CPU, in ``eval`` mode: BatchNorm takes its running statistics.
    """

    @classmethod
    def _from_pretrained(cls, *, strict: bool = True, **asked: Any) -> Generator:
        """As the mixin's, whose default would take a file with weights missing and leave those as they are at birth.

        Raises:
            RuntimeError: the weights are not those of the network that config.json describes.
        """
        found: Generator = super()._from_pretrained(strict=strict, **asked)
        return found


def push(what: Path, repository: str) -> str:
    """Upload the folder or file ``what`` to ``repository``, made private if it is not there; returns its address.

    Raises:
        InputError: the Hub cannot be reached, refuses, or knows no such name; what was written stays where it is.
    """
    api = HfApi()
    try:
        url = api.create_repo(repository, private=True, exist_ok=True)
        if what.is_dir():
            api.upload_folder(repo_id=repository, folder_path=what)
        else:
            api.upload_file(repo_id=repository, path_or_fileobj=what, path_in_repo=what.name)
    except Exception as error:  # the client's own, and those of the HTTP library that its version is built on
        said = " ".join(redact(str(error)).split())
        raise InputError(
            f"{what} is written, but did not get to {repository} on the Hub ({said}). "
            "Log in with `hf auth login`, and give a name like me/mnist-dcgan."
        ) from error
    return str(url)
