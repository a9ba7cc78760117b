"""The training images nearest to samples, to see whether a generator copies them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from shards.common.errors import InputError
from shards.common.progress import Advance, progress_bar
from shards.loading.dataset import ShardDataset
from trainer.data import open_feature_cache, open_images
from trainer.evaluate.evaluation import Evaluator, check_reals
from trainer.evaluate.measures import Features, Measure, create_lite0
from trainer.explore.gallery import Gallery, Picture
from trainer.folder.load_run import LoadedRun

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 256  # images that are compared with others at a time
STRETCH = 8192  # real images whose features are in memory at once: 42 MB of those of EfficientNet-Lite0
COMPARED = 1000  # real images whose distance to the nearest other one is measured
THUMBNAIL = 16  # pixels
SHOWN = 8  # samples, if none are named


@dataclass(frozen=True)
class Neighbours:
    """The nearest real images of each query, nearest first."""

    positions: Tensor  # int64 (queries, k), in the order of the data set
    distances: Tensor  # float32 (queries, k), Euclidean, of the features


def find_neighbours(queries: Tensor, reals: Tensor, k: int) -> Neighbours:
    """The ``k`` rows of ``reals``, float32 (images, features), that are nearest to each of the ``queries``."""
    parts = [torch.cdist(rows, reals).topk(k, largest=False).indices for rows in torch.split(queries, ROWS)]
    positions = torch.cat(parts)
    # Again, because the matrix product in cdist rounds the distance of near images away.
    distances = torch.stack([(reals[row] - query).norm(dim=1) for row, query in zip(positions, queries, strict=True)])
    distances, order = distances.sort(1)
    return Neighbours(positions.gather(1, order), distances)


def merge(one: Neighbours, other: Neighbours, k: int) -> Neighbours:
    """The ``k`` nearest of both, each image once."""
    distances, order = torch.cat([one.distances, other.distances], 1).sort(1)
    positions = torch.cat([one.positions, other.positions], 1).gather(1, order)
    same, places = positions.sort(dim=1, stable=True)  # the nearer one of two comes first
    again = torch.zeros_like(positions, dtype=torch.bool).scatter(1, places[:, 1:], same[:, 1:] == same[:, :-1])
    distances, order = distances.masked_fill(again, torch.inf).topk(min(k, distances.shape[1]), largest=False)
    return Neighbours(positions.gather(1, order), distances)


@dataclass
class Search:
    """The ``k`` nearest of the real images :meth:`add`-ed so far to each of the ``queries``."""

    queries: Tensor
    k: int
    found: Neighbours | None = None
    seen: int = 0

    def add(self, reals: Tensor) -> None:
        """Compare with the next real images of the data set, float32 (images, features)."""
        near = find_neighbours(self.queries, reals, min(self.k, len(reals)))
        near = Neighbours(near.positions + self.seen, near.distances)
        self.found = merge(self.found, near, self.k) if self.found else near
        self.seen += len(reals)

    @property
    def neighbours(self) -> Neighbours:
        """Raises ``ValueError`` before any :meth:`add`."""
        if self.found is None:
            raise ValueError("compared with nothing")
        return self.found


def typical_distance(found: Neighbours) -> float:
    """The median distance of a real image to the nearest other one. ``found`` are the two nearest of each of the first
    real images, among all.
    """
    itself = found.positions == torch.arange(len(found.positions), device=found.positions.device)[:, None]
    itself[:, 1] |= ~itself.any(1)  # of three equal images, the two found may be the others
    return found.distances[~itself].median().item()


def draw_nearest(
    gallery: Gallery, run: LoadedRun, count: int, numbers: Sequence[int] | None, k: int, most: int, shards: str | None
) -> Picture:
    """Compares samples 0 to ``count`` - 1 with up to ``most`` real images, and draws a row for each of ``numbers``: the
    sample and its ``k`` nearest real images, with their distances. Without ``numbers``, the samples are drawn that are
    nearest to a real image.

    If the run mirrors its images, the mirror image of a sample is compared too. Raises ``InputError`` if the images
    cannot be read, or are not those of such a run.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset, flip = open_images(run.config.data, shards), run.config.data.flip
    with closing(dataset.reader):
        check_reals(dataset, run.shape)
        reals = min(most or len(dataset), len(dataset))
        if k >= reals:
            raise InputError(f"--k is {k}, of {reals} real images. Give a smaller number.")
        measure = choose_features(device)
        evaluator = Evaluator([measure], dataset, reals, device, open_feature_cache(run.config.data))
        images = torch.from_numpy(gallery.pixels(range(count))).permute(0, 3, 1, 2).to(device)
        views = [images, images.flip(3)] if flip else [images]
        searches = [Search(measure.describe(view), k) for view in views]
        for rows in _describe_in_stretches(evaluator, measure, reals):
            if len(searches) == len(views):
                searches.append(Search(rows[:COMPARED], 2))
            for search in searches:
                search.add(rows)
    found, typical = searches[0].neighbours, typical_distance(searches[-1].neighbours)
    if flip:
        found = merge(found, searches[1].neighbours, k)
    nearest = found.distances[:, 0]
    shown = list(numbers or nearest.argsort()[:SHOWN].tolist())
    named = open_images(run.config.data, shards, keys=True)  # to read the keys of all would take long
    with closing(named.reader):
        neighbours = [[_read(named, int(place)) for place in found.positions[number]] for number in shown]
    distances = found.distances[shown].tolist()
    median = nearest.median().item()
    metadata = {
        "features": measure.name,
        "real_images": reals,
        "median_distance": {"sample": median, "real": typical},
        "neighbours": [
            {"sample": number, "keys": [key for _, key in row], "distances": values}
            for number, row, values in zip(shown, neighbours, distances, strict=True)
        ],
    }
    text = (
        f"Median distance to the nearest of {reals:,} real images, in {measure.name} features: {median:.4g} from a "
        f"sample, {typical:.4g} from another real image. The nearest sample: {nearest.min().item():.4g}."
    )
    tiles = gallery.neighbours(shown, [[image for image, _ in row] for row in neighbours], distances)
    return Picture(tiles, {"picture": "nearest", **metadata}, text=text)


def choose_features(device: torch.device) -> Measure:
    """Features of EfficientNet-Lite0, or thumbnails if its weights are not installed, which is said."""
    try:
        return create_lite0(device)
    except InputError as error:
        side = f"{THUMBNAIL}x{THUMBNAIL}"
        print(f"note: images are compared as thumbnails of {side} pixels. For features: {error}", file=sys.stderr)

    def extract(images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.float(), THUMBNAIL).flatten(1)

    return Features("thumbnails", f"averaged to {THUMBNAIL} px", extract, ("", ""))


def _read(dataset: ShardDataset, position: int) -> tuple[np.ndarray, str]:
    batch = dataset.__getitems__(range(position, position + 1))
    return batch.images[0].numpy(), batch.keys[0]


def _describe_in_stretches(evaluator: Evaluator, measure: Measure, count: int) -> Iterator[Tensor]:
    """The rows of ``measure`` for the first ``count`` real images."""
    with progress_bar(count, 0, what=f"{measure.name}, real") as bar:

        def show(*_: object) -> AbstractContextManager[Advance]:
            return nullcontext(bar.update)

        for first in range(0, count, STRETCH):
            size = min(STRETCH, count - first)
            rows = evaluator.describe_reals(measure, size, show, first)
            assert rows is not None  # which only other ranks are
            bar.update(first + size - bar.n)  # those that the cache had
            yield rows
