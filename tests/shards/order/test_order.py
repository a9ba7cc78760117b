from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.order.order import BLOCK, EPOCH, FLIP, Order, flips, philox

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**64 - 1)
Sample = tuple[int, int]


def make(counts: list[int], seed: int = 0, lanes: int = 1, block: int = 5) -> Order:
    return Order(np.array(counts, np.int64), seed, lanes, block)


ORDERS = st.builds(make, COUNTS, SEEDS, st.integers(1, 300), st.integers(1, 40))


def look(order: Order, positions: list[int] | range) -> list[Sample]:
    shards, rows = order.lookup(np.array(positions, dtype=np.int64))
    return list(zip(shards.tolist(), rows.tolist(), strict=True))


def everything(order: Order) -> list[Sample]:
    return [(shard, row) for shard, count in enumerate(order.counts.tolist()) for row in range(count)]


def epoch(order: Order, number: int) -> range:
    return range(number * order.samples, (number + 1) * order.samples)


@given(order=ORDERS, number=st.integers(0, 2**40))
def test_an_epoch_is_every_sample_once(order: Order, number: int) -> None:
    assert sorted(look(order, epoch(order, number))) == everything(order)


@given(order=ORDERS, data=st.data())
def test_a_position_is_looked_up_alone_or_among_others_alike(order: Order, data: st.DataObject) -> None:
    stream = look(order, range(4 * order.samples))
    positions = data.draw(st.lists(st.integers(0, len(stream) - 1), max_size=40))
    assert look(order, positions) == [stream[position] for position in positions]
    assert [look(order, [position])[0] for position in positions] == [stream[position] for position in positions]


@given(order=ORDERS)
def test_one_lane_reads_block_after_block_each_whole(order: Order) -> None:
    lone = Order(order.counts, order.seed, 1, order.block)
    visits = [list(run) for _, run in groupby(look(lone, epoch(lone, 3)), lambda s: (s[0], s[1] // lone.block))]
    assert len(visits) == sum(-(-count // order.block) for count in order.counts.tolist())


@given(counts=COUNTS, seed=SEEDS, lanes=st.integers(1, 300), block=st.integers(1, 40))
def test_lanes_read_equal_parts_of_the_sequence_side_by_side(
    counts: list[int], seed: int, lanes: int, block: int
) -> None:
    """Deal the sequence out to readers, longer parts first, and let them take turns."""
    sequence = look(make(counts, seed, 1, block), range(sum(counts)))
    quotient, remainder = divmod(len(sequence), lanes)
    parts, rest = [], sequence
    for lane in range(lanes):
        length = quotient + (lane < remainder)
        parts.append(rest[:length])
        rest = rest[length:]
    turns = [part[turn] for turn in range(quotient + 1) for part in parts if turn < len(part)]
    assert look(make(counts, seed, lanes, block), range(len(sequence))) == turns


def test_blocks_and_samples_in_them_are_shuffled_apart() -> None:
    order = make([64] * 16, block=64)
    first, second = look(order, epoch(order, 0)), look(order, epoch(order, 1))
    assert [s for s, _ in first[::64]] != sorted(s for s, _ in first[::64])
    assert [s for s, _ in first[::64]] != [s for s, _ in second[::64]]
    inside = {shard: [row for s, row in first if s == shard] for shard in range(16)}
    assert len({tuple(rows) for rows in inside.values()}) == 16
    again = {shard: [row for s, row in second if s == shard] for shard in range(16)}
    assert all(inside[shard] != again[shard] for shard in range(16))


def test_every_seed_and_epoch_has_an_order_of_its_own() -> None:
    orders = {tuple(look(make([50, 50], seed), range(e * 100, e * 100 + 100))) for seed in range(20) for e in range(20)}
    assert len(orders) == 400


def test_over_the_epochs_a_sample_comes_at_any_time() -> None:
    """A sample's place in the epoch is uniform: mean 1/2, and the ten tenths equally often (chi-square, p = 1e-4)."""
    order = make([20] * 10, lanes=8)
    places = [look(order, epoch(order, number)).index((3, 7)) / 200 for number in range(400)]
    tenths = np.histogram(places, bins=10, range=(0, 1))[0]
    assert ((tenths - 40) ** 2 / 40).sum() < 33.7


def test_a_batch_mixes_at_least_as_many_blocks_as_a_full_shuffle() -> None:
    lanes, block = 128, 50
    order = make([500] * 40, lanes=lanes, block=block)
    stream = np.array([shard * 10 + row // block for shard, row in look(order, range(order.samples))])
    batches = stream[: order.samples // lanes * lanes].reshape(-1, lanes)
    mixed = np.mean([len(np.unique(batch)) for batch in batches])
    blocks = order.samples // block
    shuffled = blocks * (1 - (1 - 1 / blocks) ** lanes)
    assert mixed >= shuffled
    assert mixed > 0.99 * lanes


def test_the_order_is_that_of_every_run_begun_before() -> None:
    """Checkpoints keep a position only: another order here would repeat and skip samples of every run under way."""
    order = make([7, 12, 3], seed=42, lanes=4)
    assert look(order, range(20, 28)) == [(1, 5), (0, 4), (1, 4), (1, 9), (2, 0), (0, 3), (1, 1), (1, 5)]


@pytest.mark.parametrize(
    ("counts", "seed", "lanes", "block"),
    [([], 0, 1, 1), ([0], 0, 1, 1), ([3, 0, 4], 0, 1, 2), ([5, -1], 0, 1, 1), ([5], 0, 0, 1), ([5], 0, 1, 0),
     ([5], -1, 1, 1), ([5], 2**64, 1, 1)],
)  # fmt: skip
def test_what_is_not_an_order_is_refused(counts: list[int], seed: int, lanes: int, block: int) -> None:
    with pytest.raises(ValueError, match="an order needs"):
        make(counts, seed, lanes, block)


def test_millions_of_samples_cost_no_more_memory_than_their_blocks() -> None:
    order = make([10_000] * 300, lanes=128, block=500)
    for epoch in (7, 8, 9, 2):
        order.lookup(np.arange(epoch * order.samples - 64, epoch * order.samples + 64))
    assert sum(array.nbytes for pair in order._epochs.values() for array in pair) < 2 * 6000 * 16


@given(seed=SEEDS, start=st.integers(0, 2**48), cuts=st.lists(st.integers(0, 50), max_size=5))
def test_flips_do_not_depend_on_how_positions_are_cut(seed: int, start: int, cuts: list[int]) -> None:
    parts = [flips(seed, start + sum(cuts[:i]), count) for i, count in enumerate(cuts)]
    assert np.array_equal(np.concatenate([np.empty(0, bool), *parts]), flips(seed, start, sum(cuts)))


def test_flips_are_fair_coins_of_their_own() -> None:
    coins = np.array([flips(seed, 0, 40_000) for seed in range(4)])
    bound = 5 / np.sqrt(40_000)
    signs = 2.0 * coins - 1
    assert np.abs(signs.mean(axis=1)).max() < bound
    assert np.abs(signs @ signs.T / 40_000 - np.eye(4)).max() < bound
    assert max(abs((row[1:] * row[:-1]).mean()) for row in signs) < bound


def test_purposes_share_no_stream() -> None:
    drawn = {philox(1, purpose, counter).random_raw() for purpose in (EPOCH, BLOCK, FLIP) for counter in (0, 1, 2)}
    assert len(drawn) == 9


def test_a_choice_has_room_for_all_its_draws() -> None:
    """Counters lie 2**64 apart or more, so that neighbours' draws do not overlap."""
    first = philox(1, BLOCK, 5, 2).random_raw(10_000)
    for other in (philox(1, BLOCK, 6, 2), philox(1, BLOCK, 5, 3), philox(2, BLOCK, 5, 2)):
        assert not np.intersect1d(first, other.random_raw(10_000)).size
