"""Keyed permutations that are computed for single elements, without drawing a whole permutation.

A Feistel network permutes the cells of a rectangle of a x b >= n cells; repeating it for results outside [0, n) gives a
permutation of n (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 8
"""Four for each side. With three, neighbours stay neighbours 5 % too often. With four, some permutations of few
elements are a fifth more frequent than others; from fifty elements on no bias is measurable."""

_GOLDEN = 0x9E3779B97F4A7C15
_VALUE = 0xD1342543DE82EF95


def permute(values: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of ``values[i]`` in permutation ``keys[i]`` of ``sizes[i]`` elements, int64 (n,).

    Takes 0.3 us per value, for any size, and at least 0.2 ms.

    Args:
        values: int64 (n,), each in ``[0, sizes[i])``.
        sizes: int64 (n,), each at least 1 and below 2**32.
        keys: uint64 (n,), mixed as by :func:`mix`: consecutive numbers would give similar permutations.
    """
    width = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    sizes = sizes.astype(np.uint64)
    # A rotation of an odd cycle is an even permutation: without this swap some sizes would have no odd permutations.
    swap = (keys >> np.uint64(63)) * (sizes > np.uint64(1))
    cells = values.astype(np.uint64)
    cells ^= swap * (cells < np.uint64(2))
    height = (sizes + width - np.uint64(1)) // width
    places = _network(cells, width, height, keys)
    outside = np.flatnonzero(places >= sizes)
    while outside.size:
        places[outside] = _network(places[outside], width[outside], height[outside], keys[outside])
        outside = outside[places[outside] >= sizes[outside]]
    return places.astype(np.int64)


def mix(words: np.ndarray) -> np.ndarray:
    """The bijection of uint64 of SplitMix64 (Steele et al., OOPSLA 2014): each input bit affects every output bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def numbered(key: int, numbers: np.ndarray) -> np.ndarray:
    """A different key for each of ``numbers``, uint64 (n,)."""
    return mix(numbers.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))


def _network(cells: np.ndarray, width: np.ndarray, height: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(cells, height)
    for number in range(0, ROUNDS, 2):
        _rotate(left, right, width, keys, number)
        _rotate(right, left, height, keys, number + 1)
    return np.asarray(left * height + right)


def _rotate(side: np.ndarray, other: np.ndarray, size: np.ndarray, keys: np.ndarray, number: int) -> None:
    """Add a hash of ``other`` and the key to ``side``, modulo ``size``, in place.

    It uses few NumPy calls: with 128 values, each takes longer than its arithmetic.
    """
    words = other * np.uint64(_VALUE)
    words += keys
    words += np.uint64(number * _GOLDEN % 2**64)
    words ^= words >> np.uint64(32)
    words *= np.uint64(_GOLDEN)
    words >>= np.uint64(32)
    words *= size
    words >>= np.uint64(32)
    side += words
    np.minimum(side, side - size, out=side)  # side modulo size: a negative difference wraps to a huge number
