"""Tensors that evaluations compute once, such as features of real images, in the node's bounded cache."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import NoReturn

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from shards.common.errors import InputError
from shards.storage.cache import BlockCache

LARGEST = 2**30  # bytes of tensors; Linux reads less than twice as many at once


def load_tensors(cache: BlockCache | None, name: str) -> dict[str, Tensor] | None:
    """The tensors that were kept as ``name``; None if there is no cache, or it lacks them."""

    def absent() -> NoReturn:
        raise LookupError

    if cache is None:
        return None
    try:
        with closing(cache.get(name, absent)) as block:
            return load(block.read(0, sys.maxsize))
    except (LookupError, OSError, InputError, SafetensorError):
        return None


def keep_tensors(cache: BlockCache | None, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Keep ``tensors`` as ``name``, if possible: without them, the next evaluation only takes longer."""
    if cache is None or sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
        return
    data = save({key: tensor.contiguous().cpu() for key, tensor in tensors.items()})
    with suppress(OSError, InputError):
        cache.get(name, lambda: data).close()
