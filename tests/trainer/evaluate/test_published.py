"""Scores agree with the published definitions whose names they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import Tensor, nn

from shards.common.files import compute_sha256
from shards.loading.dataset import ShardDataset
from trainer.evaluate import measures, pixels
from trainer.evaluate.measures import create_measure

Array = np.ndarray
COUNT = 40  # images of a set


@pytest.fixture(scope="module")
def faces(faces32: Path) -> Tensor:
    dataset = ShardDataset(faces32)
    images = dataset.__getitems__(range(2 * COUNT)).images.permute(0, 3, 1, 2)
    dataset.reader.close()
    return images


def smooth(images: Array) -> Array:
    """Each row and column filtered by (1, 4, 6, 4, 1) / 16, mirrored without the pixel at the edge."""
    for axis in (2, 3):
        widths = [(2, 2) if axis == each else (0, 0) for each in range(4)]
        windows = sliding_window_view(np.pad(images, widths, mode="reflect"), 5, axis)
        images = windows @ np.array([1, 4, 6, 4, 1]) / 16
    return images


def pyramid(images: Array) -> list[Array]:
    """The Laplacian pyramid down to 16 pixels (Burt and Adelson), finest band first."""
    bands, image = [], images.astype(float)
    while image.shape[-1] > 16:
        small = smooth(image)[:, :, ::2, ::2]
        bands.append(image - 4 * smooth(np.kron(small, [[1, 0], [0, 0]])))
        image = small
    return [*bands, image]


def descriptors(band: Array, places: Array) -> Array:
    """128 patches of 7x7 pixels of each image, normalised in each channel of the whole set.

    ``places`` are their first rows and columns, which may be any where they fit.
    """
    windows = sliding_window_view(band, (7, 7), (2, 3))  # image, channel, row, column, 7, 7
    rows, columns = places.reshape(2, len(band), 128)
    patches = windows[np.arange(len(band))[:, None], :, rows, columns].reshape(-1, band.shape[1], 49)
    patches = (patches - patches.mean((0, 2), keepdims=True)) / patches.std((0, 2), keepdims=True)
    return patches.reshape(len(patches), -1)


def published(real: Array, fake: Array) -> dict[int, float]:
    """The sliced Wasserstein distance x 1000 of each band (Karras et al., arXiv 1710.10196, section 5), with the
    normally distributed numbers and the places of patches that ours draws for seed 0.

    Ours cuts both sets at the same places. The authors' code draws other ones for each set.
    """
    found = {}
    for ours, theirs in zip(pyramid(real), pyramid(fake), strict=True):
        side, values = ours.shape[-1], ours.shape[1] * 49
        first, second = (torch.Generator().manual_seed(side) for _ in range(2))
        places = torch.randint(side - 6, (2, len(ours) * 128), generator=first).numpy()
        directions = torch.cat([torch.randn(128, values, generator=second) for _ in range(4)]).double().numpy().T
        directions /= np.linalg.norm(directions, axis=0)
        a, b = (np.sort(descriptors(band, places) @ directions, axis=0) for band in (ours, theirs))
        found[side] = 1000 * float(np.abs(a - b).mean())
    return found


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 15 * noise).round().clamp(0, 255).byte()


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float(), 3, 1, 1).byte()


def test_the_bands_are_those_of_the_laplacian_pyramid(faces: Tensor) -> None:
    images = faces[:8].float()
    for theirs in pyramid(images.numpy()):
        ours, images = pixels._split(images)
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-3)


@pytest.mark.parametrize("spoil", [noisy, blurred])
def test_the_sliced_wasserstein_distance_is_the_published_one(faces: Tensor, spoil: Callable[[Tensor], Tensor]) -> None:
    real, fake = faces[:COUNT], spoil(faces[COUNT:])
    expected = published(real.numpy(), fake.numpy())
    assert pixels.sliced_wasserstein(real, fake) == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def inception_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of the FID network, whose hash is the expected one."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "weights.pth"
    torch.save({}, path)
    with monkeypatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    torch.save(network.state_dict(), path)
    with path.open("rb") as file:
        monkeypatch.setattr(measures, "INCEPTION_SHA256", compute_sha256(file))
    return path


@pytest.mark.parametrize(("channels", "scale"), [(1, 1), (3, 13)])
def test_inception_describes_images_as_others_do(
    faces: Tensor, inception_file: Path, channels: int, scale: int
) -> None:
    """Pillow makes small and large ones 299 pixels wide, as for clean-fid (arXiv 2104.11222), and torchmetrics calls
    the network.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    images = F.interpolate(faces[:3, :channels], scale_factor=scale)
    measure = create_measure("inception", torch.device("cpu"), cast("ShardDataset", None), None, inception_file)
    found = measure.describe(images)
    resized = np.array([[resize(band.numpy(), 299) for band in image] for image in images])
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    theirs = network(torch.from_numpy(resized).expand(-1, 3, -1, -1))
    assert found.shape == theirs.shape == (3, 2048) and found.std() > 0.01
    torch.testing.assert_close(found, theirs, atol=1e-3 * found.std().item(), rtol=0)


def resize(band: Array, side: int) -> Array:
    large = Image.fromarray(band.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large).clip(0, 255).round().astype(np.uint8)
