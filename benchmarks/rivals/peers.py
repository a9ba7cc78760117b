"""The usual pipelines over the same images, each in its own format and set up as its documentation shows."""

from __future__ import annotations

import io
import itertools
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

from shards.building.build import build
from shards.building.recipe import Options
from shards.format.index import walk_tar
from shards.format.manifest import read_manifest
from shards.sources.folder import Folder

Stream = Callable[[], Iterator[int]]


@dataclass(frozen=True)
class Data:
    """The same images in every format."""

    files: Path
    """Folder with one class folder of JPEG files."""
    jpg: Path
    npy: Path
    work: Path

    @property
    def tars(self) -> list[str]:
        """For webdataset: its own writer's, with nothing but the JPEGs."""
        return sorted(str(path) for path in (self.work / "tars").glob("*.tar"))

    def encoded(self) -> Iterator[bytes]:
        """The JPEG files' bytes."""
        return (path.read_bytes() for path in sorted((self.files / "all").iterdir()))


def prepare(shards: Path, images: int, work: Path) -> Data:
    """Unpack ``images`` JPEGs of a data set into files, some more than once if it has fewer, and build both of our
    formats from them.
    """
    data = Data(work / "files", work / "jpg", work / "npy", work)
    (data.files / "all").mkdir(parents=True)
    (work / "tars").mkdir()
    manifest = read_manifest(shards)
    members = []
    for shard in manifest.shards:
        with (shards / shard.name).open("rb") as file:
            members += [member.data for member in walk_tar(file, shard.name)]
    with webdataset.ShardWriter(str(work / "tars" / "%06d.tar"), maxcount=2048, verbose=0) as tars:
        for number, member in zip(range(images), itertools.cycle(members), strict=False):
            (data.files / "all" / f"{number:09d}.jpg").write_bytes(member)
            tars.write({"__key__": f"{number:09d}", "jpg": member})
    size = manifest.size
    for out, format in ((data.jpg, "jpg"), (data.npy, "npy")):
        build(Folder(data.files), out, Options(size=size, format=format, shard_samples=2048))  # type: ignore[arg-type]
    return data


def loader(dataset: Any, **options: Any) -> Stream:
    """Epochs of a DataLoader with one worker; forked, as on any Linux, whatever a peer has set."""

    def stream() -> Iterator[int]:
        source = DataLoader(dataset, num_workers=1, persistent_workers=True, multiprocessing_context="fork", **options)
        while True:
            for batch in source:
                yield len(batch[0] if isinstance(batch, tuple | list) else batch)

    return stream


def webdataset_usual(data: Data, batch_size: int) -> Stream:
    """Shuffle, decode, to_tuple, batched: as webdataset's own examples do."""
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
    """The same with the fastest decoder."""

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
    """torchvision's, with its own JPEG decoder on uint8."""
    from torchvision.datasets import ImageFolder
    from torchvision.io import decode_image

    dataset = ImageFolder(str(data.files), loader=decode_image)  # type: ignore[arg-type]
    return loader(dataset, batch_size=batch_size, shuffle=True)


def mosaic(data: Data, batch_size: int) -> Stream:
    """mosaicml-streaming, images stored as JPEG."""
    from streaming import MDSWriter, StreamingDataset

    out = data.work / "mosaic"
    with MDSWriter(out=str(out), columns={"image": "bytes"}) as writer:
        for encoded in data.encoded():
            writer.write({"image": encoded})

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> torch.Tensor:
            sample = super().__getitem__(index)
            return torch.from_numpy(simplejpeg.decode_jpeg(sample["image"], "RGB"))

    dataset = Images(local=str(out), shuffle=True, batch_size=batch_size)
    return loader(dataset, batch_size=batch_size)


def lit(data: Data, batch_size: int) -> Stream:
    """Litdata as its documentation shows: images stored as JPEG, decoded by its own deserializer (torchvision)."""
    import litdata

    out = data.work / "lit"
    _optimize(_open, data, out)
    return _lit_loader(lambda: litdata.StreamingDataset(str(out), shuffle=True), batch_size)


def lit_simplejpeg(data: Data, batch_size: int) -> Stream:
    """The same with the fastest decoder, which takes a data set of one's own."""
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

    files = [str(path) for path in sorted((data.files / "all").iterdir())]
    litdata.optimize(fn=fn, inputs=files, output_dir=str(out), chunk_bytes="8MB", num_workers=1)


def _read(path: str) -> bytes:
    return io.FileIO(path).readall()


def _open(path: str) -> Image.Image:
    return Image.open(path)
