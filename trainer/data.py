"""Opens the images that a run is trained on, and its cache on this node."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from shards.common.errors import InputError
from shards.loading.dataset import ShardDataset
from shards.loading.reader import Options
from shards.storage.cache import BlockCache, make_private_folder
from shards.storage.locate import CacheOptions, default_cache_folder
from trainer.config import Data


def open_images(data: Data, shards: str | None = None, **options: Unpack[Options]) -> ShardDataset:
    """The images of ``data``, or those at ``shards``, mirrored and cached as ``data`` says.

    Raises ``InputError`` if there is no data set, or its parts do not belong together.
    """
    cache = CacheOptions(_cache_folder(data), _cache_limit(data), data.trust_base)
    merged: Options = {**options, "flip": data.flip, "cache": cache}
    return ShardDataset(shards or data.shards, **merged)


def open_feature_cache(data: Data) -> BlockCache | None:
    """The cache for what evaluations compute of real images, which takes as much again as that of the images; None if
    its folder cannot be created, which costs only time.
    """
    folder = _cache_folder(data)
    try:
        make_private_folder(folder)
        cache = BlockCache(folder / "features", _cache_limit(data))
        for unbounded in (folder / "features").glob("*.safetensors"):  # of earlier versions
            unbounded.unlink(missing_ok=True)
    except (InputError, OSError):
        return None
    return cache


def _cache_limit(data: Data) -> int:
    return int(data.cache_gb * 2**30)


def _cache_folder(data: Data) -> Path:
    return data.cache or default_cache_folder()
