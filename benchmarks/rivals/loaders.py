"""Data loaders of other libraries, each with its own format and set up as in its documentation."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.measure.data import extract
from shards.building.build import build
from shards.building.recipe import Options
from shards.format.image import FORMATS
from shards.format.manifest import read_manifest
from shards.sources.folder import Folder

Stream = Callable[[], Iterator[int]]
"""Starts to read and yields the number of images in each batch, for at least an epoch."""


@dataclass(frozen=True)
class Data:
    """The same images in the format of every loader."""

    work: Path
    files: Path
    """A folder with one class folder of JPEG files."""
    jpg: Path
    """shardgan's shards with JPEG images, and below with raw images."""
    npy: Path

    @property
    def paths(self) -> list[Path]:
        """The JPEG files."""
        return sorted((self.files / "all").iterdir())

    @property
    def tars(self) -> list[str]:
        """Tars by webdataset's own writer, with only the JPEG images."""
        return sorted(str(path) for path in (self.work / "tars").glob("*.tar"))


def prepare(shards: Path, images: int, work: Path) -> Data:
    """Writes ``images`` JPEG images of a data set as files, as webdataset's tars and in both formats of shardgan."""
    data = Data(work, work / "files", work / "jpg", work / "npy")
    extract(shards, data.files, images)
    (work / "tars").mkdir()
    with webdataset.ShardWriter(str(work / "tars" / "%06d.tar"), maxcount=2048, verbose=0) as tars:
        for path in data.paths:
            tars.write({"__key__": path.stem, "jpg": path.read_bytes()})
    size = read_manifest(shards).size
    for out, format in ((data.jpg, "jpg"), (data.npy, "npy")):
        build(Folder(data.files), out, Options(size=size, format=format, shard_samples=2048))  # type: ignore[arg-type]
    return data


def loader(dataset: Any, **options: Any) -> Stream:
    """Endless epochs of a DataLoader with one worker, which is forked whatever default a library has set."""

    def stream() -> Iterator[int]:
        source = DataLoader(dataset, num_workers=1, persistent_workers=True, multiprocessing_context="fork", **options)
        while True:
            for batch in source:
                yield len(batch[0] if isinstance(batch, tuple | list) else batch)

    return stream


def webdataset_usual(data: Data, batch_size: int) -> Stream:
    """Shuffle, decode, to_tuple and batched, as in webdataset's examples."""
    dataset = (
        webdataset.WebDataset(data.tars, shardshuffle=100, seed=0)
        .shuffle(1000)
        .decode("rgb8")
        .to_tuple("jpg")
        .batched(batch_size)
        .repeat()
    )
    return loader(dataset, batch_size=None)


def webdataset_simplejpeg(data: Data, batch_size: int) -> Stream:
    """Webdataset with the fastest decoder."""

    def decode(sample: dict[str, bytes]) -> tuple[np.ndarray]:
        return (simplejpeg.decode_jpeg(sample["jpg"], "RGB"),)

    dataset = (
        webdataset.WebDataset(data.tars, shardshuffle=100, seed=0)
        .shuffle(1000)
        .map(decode)
        .batched(batch_size)
        .repeat()
    )
    return loader(dataset, batch_size=None)


def image_folder(data: Data, batch_size: int) -> Stream:
    """Torchvision's ImageFolder with its own JPEG decoder on uint8."""
    from torchvision.datasets import ImageFolder
    from torchvision.io import decode_image

    dataset = ImageFolder(str(data.files), loader=decode_image)  # type: ignore[arg-type]
    return loader(dataset, batch_size=batch_size, shuffle=True)


def mosaic(data: Data, batch_size: int) -> Stream:
    """mosaicml-streaming with images stored as JPEG."""
    from streaming import MDSWriter, StreamingDataset

    out = data.work / "mosaic"
    with MDSWriter(out=str(out), columns={"image": "bytes"}) as writer:
        for path in data.paths:
            writer.write({"image": path.read_bytes()})

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> torch.Tensor:
            sample = super().__getitem__(index)
            return torch.from_numpy(simplejpeg.decode_jpeg(sample["image"], "RGB"))

    dataset = Images(local=str(out), shuffle=True, batch_size=batch_size)
    return loader(dataset, batch_size=batch_size)


def lit(data: Data, batch_size: int) -> Stream:
    """Litdata as in its documentation: images stored as JPEG, decoded by its own deserializer (torchvision)."""
    import litdata

    out = data.work / "lit"
    _optimize(_open, data, out)
    return _lit_loader(lambda: litdata.StreamingDataset(str(out), shuffle=True), batch_size)


def lit_simplejpeg(data: Data, batch_size: int) -> Stream:
    """Litdata with the fastest decoder, which needs a custom data set."""
    import litdata

    out = data.work / "lit-bytes"
    _optimize(_read, data, out)

    class Images(litdata.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> torch.Tensor:
            return torch.from_numpy(simplejpeg.decode_jpeg(super().__getitem__(index), "RGB"))

    return _lit_loader(lambda: Images(str(out), shuffle=True), batch_size)


def _lit_loader(dataset: Callable[[], Any], batch_size: int) -> Stream:
    import litdata

    def stream() -> Iterator[int]:
        source = litdata.StreamingDataLoader(
            dataset(), batch_size=batch_size, num_workers=1, multiprocessing_context="fork"
        )
        while True:
            for batch in source:
                yield len(batch)

    return stream


def _optimize(fn: Callable[[str], Any], data: Data, out: Path) -> None:
    import litdata

    files = [str(path) for path in data.paths]
    litdata.optimize(fn=fn, inputs=files, output_dir=str(out), chunk_bytes="8MB", num_workers=1)


def _read(path: str) -> bytes:
    return io.FileIO(path).readall()


def _open(path: str) -> Image.Image:
    return Image.open(path, formats=FORMATS)
