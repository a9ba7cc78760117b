"""Scores that compare the features of generated images with those of real ones.

Features are float32 tensors (images, values) on one device. Products of all pairs of images are computed in chunks, so
memory grows with the number of images, not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from shards.common.progress import Advance

CHUNK = 4096  # images


NEIGHBOURS = 5
"""The k of the k-nearest neighbours, as in the paper of density and coverage."""


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Squared Fréchet distance between normal distributions fitted to the features (Heusel et al., arXiv 1706.08500).

    It is biased upwards by about 1/n; compare only values of the same number of images.
    """
    (mean_real, cov_real), (mean_fake, cov_fake) = _moments(real), _moments(fake)
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # The trace of the square root of cov_real @ cov_fake, of which this symmetric matrix has the eigenvalues.
    overlap = torch.linalg.eigvalsh(root @ cov_fake @ root).clamp(min=0).sqrt().sum()
    return float((mean_real - mean_fake).square().sum() + cov_real.trace() + cov_fake.trace() - 2 * overlap)


def comparisons(real: int, fake: int) -> int:
    """Chunks that :func:`kernel_distance` and :func:`precision_recall_density_coverage` compare, for these numbers of
    images.
    """
    return 4 * -(-real // CHUNK) + 2 * -(-fake // CHUNK)


def kernel_distance(real: Tensor, fake: Tensor, advance: Advance = lambda _: None) -> float:
    """Squared maximum mean discrepancy with the kernel (x·y/d + 1)³ (Bińkowski et al., arXiv 1801.01401).

    The estimator is unbiased, so its value for equal distributions is around 0 and may be negative.
    """
    n, m = len(real), len(fake)
    within_real = (_kernel_sum(real, real, advance) - _kernel_diagonal(real)) / (n * (n - 1))
    within_fake = (_kernel_sum(fake, fake, advance) - _kernel_diagonal(fake)) / (m * (m - 1))
    return within_real + within_fake - 2 * _kernel_sum(real, fake, advance) / (n * m)


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, k: int = NEIGHBOURS, advance: Advance = lambda _: None
) -> tuple[float, ...]:
    """Precision and recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage (Naeem et al., arXiv
    2002.09797).

    The ball of an image reaches to its ``k``-th nearest neighbour in its own set. Precision is the share of fakes in a
    ball of a real image, recall the share of reals in a ball of a fake, density the mean number of real balls around a
    fake, divided by ``k``, and coverage the share of reals whose ball holds a fake.
    """
    real_radii, fake_radii = (_neighbour_distance(images, k, advance) for images in (real, fake))
    in_real_ball = torch.zeros(len(fake), dtype=torch.long, device=fake.device)
    recalled, covered = [], []
    for rows, distances in _distances(real, fake):
        inside = distances <= real_radii[rows, None]
        in_real_ball += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances <= fake_radii).any(1))
        advance(1)
    precision = (in_real_ball > 0).double().mean().item()
    density = in_real_ball.sum().item() / (k * len(fake))
    return precision, _share(recalled), density, _share(covered)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, in float64: the distance is a small difference of large traces."""
    double = features.double()
    mean = double.mean(0)
    centred = double - mean
    return mean, centred.T @ centred / (len(features) - 1)


def _kernel_sum(a: Tensor, b: Tensor, advance: Advance) -> float:
    total = 0.0
    for rows in torch.split(a, CHUNK):
        for columns in torch.split(b, CHUNK):
            total += ((rows @ columns.T).double() / a.shape[1] + 1).pow_(3).sum().item()
        advance(1)
    return total


def _kernel_diagonal(a: Tensor) -> float:
    return float((a.double().square().sum(1) / a.shape[1] + 1).pow(3).sum())


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Distances between rows of ``a``, a chunk of them at a time, and all rows of ``b``."""
    for start in range(0, len(a), CHUNK):
        rows = slice(start, min(start + CHUNK, len(a)))
        yield rows, torch.cdist(a[rows], b)


def _neighbour_distance(features: Tensor, k: int, advance: Advance) -> Tensor:
    """The distance of each row to its ``k``-th nearest other row."""
    found = []
    for _, distances in _distances(features, features):
        found.append(distances.kthvalue(k + 1, dim=1).values)  # each row is its own nearest
        advance(1)
    return torch.cat(found)


def _share(parts: list[Tensor]) -> float:
    return torch.cat(parts).double().mean().item()
