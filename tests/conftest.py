"""What several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real MNIST, CelebA and bedroom images; tests that need it are skipped, by name, without it."""
    folder = os.environ.get("SHARDGAN_DATA")
    if not folder:
        pytest.skip("SHARDGAN_DATA is unset: no real images here")
    return Path(folder)
