from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.order.permute import mix, numbered, permute

WORDS = st.integers(0, 2**64 - 1)


def whole(sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The permutations of equal ``sizes`` by ``keys``: (keys, size)."""
    size = int(sizes[0])
    values = np.tile(np.arange(size), len(keys))
    return permute(values, np.full(len(values), size), np.repeat(keys, size)).reshape(len(keys), size)


@given(size=st.integers(1, 3000), key=WORDS)
def test_every_value_goes_to_a_place_of_its_own(size: int, key: int) -> None:
    places = whole(np.array([size]), np.array([key], np.uint64))
    assert sorted(places[0].tolist()) == [*range(size)]


@given(rows=st.lists(st.tuples(st.integers(1, 2**31), WORDS, st.integers(0, 2**31)), min_size=1, max_size=40))
def test_a_value_goes_there_whatever_is_asked_beside_it(rows: list[tuple[int, int, int]]) -> None:
    sizes, keys = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], np.uint64)
    values = np.array([row[2] for row in rows]) % sizes
    before = values.copy()
    together = permute(values, sizes, keys)
    alone = [int(permute(values[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0]) for i in range(len(rows))]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < sizes)).all()
    assert np.array_equal(values, before)


def test_each_permutation_of_a_few_comes_up() -> None:
    for size in (2, 3, 4):
        places = whole(np.array([size]), numbered(9, np.arange(24_000)))
        codes, counts = np.unique(places @ size ** np.arange(size), return_counts=True)
        orders = len([*permutations(range(size))])
        assert len(codes) == orders
        assert np.abs(counts * orders / 24_000 - 1).max() < 0.15


@pytest.mark.parametrize("size", [2, 3, 5, 7, 8, 9, 16, 25, 48, 49, 121, 360])
def test_odd_and_even_permutations_come_alike_often(size: int) -> None:
    places = whole(np.array([size]), numbered(12, np.arange(4000)))
    above = np.triu(np.ones((size, size), bool), 1)
    odd = [int(((row[:, None] > row[None, :]) & above).sum()) % 2 for row in places]
    assert abs(np.mean(odd) - 0.5) < 5 * 0.5 / np.sqrt(4000)


@pytest.mark.parametrize("size", [50, 450, 1000])
def test_blocks_are_shuffled_evenly(size: int) -> None:
    """By chi-square, 5 standard deviations: each value at each place, and the steps between neighbours, alike often."""
    keys = 4_000_000 // size
    places = whole(np.array([size]), numbered(7, np.arange(keys)))
    table = np.zeros((size, size))
    np.add.at(table, (np.tile(np.arange(size), keys), places.ravel()), 1)
    steps = np.bincount((np.diff(places) % size).ravel(), minlength=size)[1:]
    for seen, freedom in ((table, (size - 1) ** 2), (steps, size - 2)):
        expected = seen.sum() / seen.size
        chi = ((seen - expected) ** 2 / expected).sum()
        assert abs(chi - freedom) < 5 * np.sqrt(2 * freedom)


def test_keys_of_neighbouring_numbers_have_nothing_in_common() -> None:
    keys = numbered(3, np.arange(100_000))
    assert len(np.unique(keys)) == 100_000
    flipped = np.unpackbits((keys[1:] ^ keys[:-1]).view(np.uint8)).mean()
    assert abs(flipped - 0.5) < 0.001
    assert not np.intersect1d(keys, numbered(4, np.arange(100_000))).size


def test_the_mixer_is_the_published_one() -> None:
    """SplitMix64 seeded with 1234567, as its reference implementation prints it."""
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(states).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821
    ]  # fmt: skip
