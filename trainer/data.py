"""Opens the images that a run is trained on, and its cache on this node."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from shards.common.errors import InputError
from shards.loading.dataset import ShardDataset
from shards.loading.reader import Options
from shards.storage.cache import make_private_folder
from shards.storage.locate import CacheOptions, default_cache_folder
from trainer.config import Data


def open_images(data: Data, shards: str | None = None, **options: Unpack[Options]) -> ShardDataset:
    """The images of ``data``, or those at ``shards``, mirrored and cached as ``data`` says.

    Raises ``InputError`` if there is no data set, or its parts do not belong together.
    """
    cache = CacheOptions(_cache_folder(data), int(data.cache_gb * 2**30), data.trust_base)
    merged: Options = {**options, "flip": data.flip, "cache": cache}
    return ShardDataset(shards or data.shards, **merged)


def open_feature_cache(data: Data) -> Path | None:
    """The folder for what evaluations compute of real images; None if it cannot be created, which costs only time."""
    cache = _cache_folder(data)
    features = cache / "features"
    try:
        for folder in (cache, features):
            make_private_folder(folder)
    except InputError:
        return None
    return features


def _cache_folder(data: Data) -> Path:
    return data.cache or default_cache_folder()
