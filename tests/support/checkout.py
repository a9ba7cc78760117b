"""A folder like a fresh clone, with small cuts of the real raw images where the docs say that people put them."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import lmdb
import numpy as np

from shards.building.build import build
from shards.sources.faces import Faces
from tests.support.launching import ROOT

TRACKED = ("accelerate_config.yaml", "benchmarks", "docs", "launch", "pyproject.toml", "README.md", "shards", "tests",
           "trainer")  # fmt: skip
FACES = 64


def make_checkout(root: Path, real: Path) -> Path:
    """MNIST: 200 and 100 digits; CelebA: 80 faces; 60 bedrooms as LSUN's LMDB; 120 as flowers of two kinds; and built
    already, 64 drawn faces.
    """
    for name in TRACKED:
        (root / name).symlink_to(ROOT / name)
    (root / ".venv").symlink_to(sys.prefix)
    mnist, celeba, flowers, lsun = (root / "raw" / name for name in ("mnist", "celeba", "flowers", "lsun"))
    for folder in (mnist, celeba / "img_align_celeba", flowers / "roses", flowers / "tulips", lsun):
        folder.mkdir(parents=True)
    for part, count in (("train", 200), ("t10k", 100)):
        for kind, dimensions, item in (("images", 3, 28 * 28), ("labels", 1, 1)):
            name = f"{part}-{kind}-idx{dimensions}-ubyte.gz"
            data = gzip.decompress((real / "mnist" / name).read_bytes())
            head = 4 + 4 * dimensions
            cut = data[:4] + np.array([count], ">u4").tobytes() + data[8 : head + count * item]
            (mnist / name).write_bytes(gzip.compress(cut))
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        (celeba / name).symlink_to(real / "celeba" / name)
    for image in sorted((real / "celeba" / "img_align_celeba").iterdir())[:80]:
        (celeba / "img_align_celeba" / image.name).symlink_to(image)
    build(Faces(FACES), root / "data" / "faces64")  # or the first command would draw 8,192, for a minute
    bedrooms = sorted((real / "bedrooms").glob("*.jpg"))
    for number, image in enumerate(bedrooms):
        (flowers / ("roses", "tulips")[number % 2] / image.name).symlink_to(image)
    database = lmdb.open(str(lsun / "bedroom_train_lmdb"), map_size=1 << 28)
    with database, database.begin(write=True) as transaction:
        for image in bedrooms[:60]:
            transaction.put(image.name.encode(), image.read_bytes())
    return root
