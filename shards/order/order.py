"""The order of samples: the sample at any position of the endless stream. Arithmetic only: no I/O, no state.

Position p is sample ``p mod N`` of epoch ``p div N``. An epoch visits *blocks* (consecutive samples of one shard, the
unit of I/O) in a random permutation, and the samples of a block in another; this is the *sequence* of the epoch. L
*lanes* read it in parallel, each its own 1/L, so that a batch of L mixes L blocks while each lane reads one at a time.

Every random choice comes from a counter-based generator, Philox (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011): its key is the seed and the purpose, its counter identifies the choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from shards.order.permute import numbered, permute

EPOCH, BLOCK, FLIP = 1, 2, 3  # purposes of random numbers: half of a Philox key, so that no two purposes share a stream


def philox(seed: int, purpose: int, *counter: int) -> np.random.Philox:
    """A generator that depends on its arguments only; ``counter`` is its high words, and draws count in the lowest."""
    words = np.zeros(4, dtype=np.uint64)
    words[4 - len(counter) :] = counter
    return np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64), counter=words)


def shuffled(generator: np.random.Philox, count: int) -> np.ndarray:
    """A random permutation of ``count``, int64, by sorting raw words, which NumPy promises never to change.

    ``Generator.permutation`` may change with any release, and with it the order of a run in progress.
    """
    return np.argsort(generator.random_raw(count), kind="stable")


def flips(seed: int, start: int, count: int) -> np.ndarray:
    """Whether positions ``start .. start + count`` are mirrored: bool (count,), each true with probability 1/2."""
    first, skip = divmod(start, 4)  # Philox draws four words per count
    words = philox(seed, FLIP).advance(first).random_raw(skip + count)[skip:]
    return (words >> np.uint64(63)).astype(bool)


@dataclass(frozen=True, eq=False)
class Order:
    """The endless order of samples of one data set under one seed."""

    counts: np.ndarray  # samples per shard, int64 (shards,), each at least 1
    seed: int
    lanes: int  # parts of the sequence that are read in parallel; best the batch size at the start of the run
    block: int  # maximum samples in a block; 1 to 4 MB read well, larger blocks mix better, smaller ones waste less
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
        """Number of the first block of each shard, then the number of blocks."""
        return np.concatenate([[0], np.cumsum(-(-self.counts // self.block))])

    def lookup(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row in the shard, each int64 (n,), of the samples at ``positions``, int64 (n,), in any order."""
        blocks, places, keys = self._locate(positions)
        shards, firsts, sizes = self._extents(blocks)
        return shards, firsts + permute(places, sizes, keys)

    def blocks(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and first row of the blocks that contain ``positions``, each once, in the order of first use."""
        blocks = self._locate(positions.ravel())[0]
        shards, firsts, _ = self._extents(blocks[np.sort(np.unique(blocks, return_index=True)[1])])
        return shards, firsts

    def _locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Block number, place in the permutation of the block, and key of this permutation, of each position."""
        epochs, offsets = np.divmod(positions, self.samples)
        quotient, remainder = divmod(self.samples, self.lanes)
        step, lane = np.divmod(offsets, self.lanes)
        elements = lane * quotient + np.minimum(lane, remainder) + step
        blocks, places, keys = np.empty_like(elements), np.empty_like(elements), np.empty(len(elements), np.uint64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            visits, starts = self._sequence(epoch)
            visit = np.searchsorted(starts, elements[here], side="right") - 1
            blocks[here], places[here] = visits[visit], elements[here] - starts[visit]
            keys[here] = numbered(int(philox(self.seed, BLOCK, epoch).random_raw()), blocks[here])
        return blocks, places, keys

    def _extents(self, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shard, first row and number of samples of each block."""
        shards = np.searchsorted(self._first_block, blocks, side="right") - 1
        firsts = (blocks - self._first_block[shards]) * self.block
        return shards, firsts, np.minimum(self.block, self.counts[shards] - firsts)

    def _sequence(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the order of their visits, and the place in the sequence where each visit starts."""
        if epoch not in self._epochs:
            total = int(self._first_block[-1])
            visits = shuffled(philox(self.seed, EPOCH, epoch), total).astype(np.int32)
            sizes = np.full(total, self.block, dtype=np.int64)
            sizes[self._first_block[1:] - 1] = self.counts - (np.diff(self._first_block) - 1) * self.block
            starts = np.cumsum(sizes[visits]) - sizes[visits]
            while len(self._epochs) > 1:  # a batch overlaps with two epochs at most
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = (visits, starts)
        return self._epochs[epoch]
