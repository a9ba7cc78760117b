from __future__ import annotations

from pathlib import Path

from trainer.config import Data
from trainer.data import open_feature_cache


def test_features_that_earlier_versions_kept_without_a_bound_are_removed(tmp_path: Path) -> None:
    data = Data(cache=tmp_path / "cache")
    cache, features = open_feature_cache(data), tmp_path / "cache" / "features"
    assert cache
    cache.get("new", lambda: b"rows").close()
    (features / "old.safetensors").touch()
    assert open_feature_cache(data)
    assert {path.name for path in features.iterdir() if path.suffix != ".lock"} == {"new.block"}


def test_without_a_folder_there_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert open_feature_cache(Data(cache=tmp_path / "cache")) is None
