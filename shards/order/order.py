"""The order of samples: which sample stands at position p. Pure arithmetic, no I/O, no state.

A *position* counts samples from the start of the run and never ends: position p is sample ``p mod N`` of epoch
``p div N``. An epoch visits *blocks* (runs of consecutive samples of one shard, the unit of I/O) in a random
permutation, and the samples of a block in another; that is the epoch's *sequence*. It is read by L *lanes* side by
side, lane l going through its own 1/L of the sequence, so that a batch of L mixes L blocks while each lane reads on in
its own.

Every random choice comes from a counter-based generator, Philox (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011), whose key is the seed and whose counter says what the choice is for; inside a block it keys a
permutation that is computed at the one place asked for. Nothing is drawn "next": looking up one position costs O(log
blocks), wherever it lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from shards.order.permute import numbered, permute

EPOCH, BLOCK, FLIP = 1, 2, 3
"""What randomness is for; half of a Philox key, so that no two purposes share a stream."""


def philox(seed: int, purpose: int, *counter: int) -> np.random.Philox:
    """A generator that is a function of its arguments only; ``counter`` fills the high words, draws the lowest one."""
    words = np.zeros(4, dtype=np.uint64)
    words[4 - len(counter) :] = counter
    return np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64), counter=words)


def shuffled(generator: np.random.Philox, count: int) -> np.ndarray:
    """A random permutation of ``count``, int64. By sorting raw words, which NumPy promises never to change; what
    ``Generator.permutation`` makes of them may change with any release, and with it the order of a run under way.
    """
    return np.argsort(generator.random_raw(count), kind="stable")


def flips(seed: int, start: int, count: int) -> np.ndarray:
    """Whether positions ``start .. start + count`` are mirrored: bool (count,), each true with probability 1/2."""
    first, skip = divmod(start, 4)  # Philox makes four words per count
    generator = np.random.Philox(
        key=np.array([seed, FLIP], dtype=np.uint64), counter=np.array([first, 0, 0, 0], dtype=np.uint64)
    )
    words = generator.random_raw(skip + count)[skip:]
    return (words >> np.uint64(63)).astype(bool)


@dataclass(frozen=True, eq=False)
class Order:
    """The endless order of samples of one data set under one seed."""

    counts: np.ndarray
    """Samples per shard, int64 (shards,), each at least 1."""
    seed: int
    lanes: int
    """How many places of the sequence are read side by side; the batch size at the start is the natural choice."""
    block: int
    """Most samples in a block. 1 to 4 MB of bytes make good reads; more samples mix better, fewer waste less."""
    _epochs: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        least = min(self.counts.min(initial=self.samples), self.lanes, self.block)
        if least < 1 or not 0 <= self.seed < 2**64:
            raise ValueError(f"an order needs samples, lanes, block >= 1 and 0 <= seed < 2**64, not {self!r}")

    @cached_property
    def samples(self) -> int:
        """N, the samples in an epoch."""
        return int(self.counts.sum())

    @cached_property
    def _first_block(self) -> np.ndarray:
        """Number of the first block of each shard, and behind them the number of blocks."""
        return np.concatenate([[0], np.cumsum(-(-self.counts // self.block))])

    def lookup(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples at ``positions``, int64 (n,), in any order: shard and row in the shard, each int64 (n,)."""
        epochs, places = np.divmod(np.asarray(positions, dtype=np.int64), self.samples)
        shards, rows = np.empty_like(places), np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            blocks, inside = self._locate(epoch, places[here])
            shards[here], firsts, sizes = self._extents(blocks)
            rows[here] = firsts + permute(inside, sizes, numbered(self._epoch_key(epoch), blocks))
        return shards, rows

    def blocks(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks that hold ``positions``, each once, in the order of need: shard and first row in the shard."""
        epochs, places = np.divmod(np.asarray(positions, dtype=np.int64), self.samples)
        blocks = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            blocks[here] = self._locate(epoch, places[here])[0]
        blocks = blocks.ravel()
        first = np.sort(np.unique(blocks, return_index=True)[1])
        shards, firsts, _ = self._extents(blocks[first])
        return shards, firsts

    def _epoch_key(self, epoch: int) -> int:
        return int(philox(self.seed, BLOCK, epoch).random_raw())

    def _locate(self, epoch: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the block, and the place in its permutation, of each place in the epoch."""
        quotient, remainder = divmod(self.samples, self.lanes)
        step, lane = np.divmod(places, self.lanes)
        element = lane * quotient + np.minimum(lane, remainder) + step
        visits, starts = self._sequence(epoch)
        visit = np.searchsorted(starts, element, side="right") - 1
        return visits[visit].astype(np.int64), element - starts[visit]

    def _extents(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, first row and number of samples of each block."""
        shards = np.searchsorted(self._first_block, blocks, side="right") - 1
        firsts = (blocks - self._first_block[shards]) * self.block
        return shards, firsts, np.minimum(self.block, self.counts[shards] - firsts)

    def _sequence(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the order of their visit, and the place in the sequence where each visit starts."""
        if epoch not in self._epochs:
            total = int(self._first_block[-1])
            visits = shuffled(philox(self.seed, EPOCH, epoch), total).astype(np.int32)
            sizes = np.full(total, self.block, dtype=np.int64)
            sizes[self._first_block[1:] - 1] = self.counts - (np.diff(self._first_block) - 1) * self.block
            starts = np.cumsum(sizes[visits]) - sizes[visits]
            while len(self._epochs) > 1:  # a batch may straddle two epochs, never three
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = (visits, starts)
        return self._epochs[epoch]
