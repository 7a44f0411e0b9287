"""In which order the samples of a source are seen: a pure function of the seed and the position, without history.

An epoch is a permutation of the source's indices that can be sliced: a numpy array, or an object that computes a slice when it is asked
for one. So a stream can begin anywhere in constant time, and what is held does not grow with what was read.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from trainer.randomness import key

BUFFER = 10_000
"""Neighbouring samples of the shards that are mixed with one another. Only their indices are held."""


class Order(Protocol):
    """A permutation of 0..len-1 of which slices can be taken."""

    def __len__(self) -> int: ...

    def __getitem__(self, positions: slice) -> np.ndarray: ...


class Positions(Protocol):
    """An endless sequence of samples."""

    def pairs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, indices), int64, of the positions `start` to `stop` - 1."""


def full_shuffle(samples: int, seed: int, epoch: int) -> np.ndarray:
    """All samples in one random order, (samples,): 4 bytes per sample."""
    generator = torch.Generator().manual_seed(key(seed, epoch))
    small = samples <= torch.iinfo(torch.int32).max  # the numbers drawn are the same
    return torch.randperm(samples, generator=generator, dtype=torch.int32 if small else torch.int64).numpy()


class ShardShuffle:
    """The shards in a random order, and the samples of neighbouring shards mixed within windows of `buffer` samples.

    As a shuffle buffer over shuffled shards, but without its history: the order of a window follows from (seed, epoch, window) alone. Where
    the windows begin changes with the epoch. Reading stays nearly sequential: about as many shards are open as a window spans.
    """

    def __init__(self, counts: Sequence[int] | np.ndarray, seed: int, epoch: int, buffer: int = BUFFER) -> None:
        """`counts`: samples of each shard; the indices of the source run through the shards in this order."""
        counts = np.asarray(counts, np.int64)
        self.seed, self.epoch, self.buffer = seed, epoch, buffer
        shards = np.random.Generator(np.random.PCG64(key(seed, epoch))).permutation(len(counts))
        self.ends = np.cumsum(counts[shards])
        """Where the shards end in the order before mixing."""
        self.shift = (np.cumsum(counts) - counts)[shards] - (self.ends - counts[shards])
        """What takes a position in each of them to its index in the source."""
        self.phase = key(seed, epoch, 1) % buffer
        self._windows: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, positions: slice) -> np.ndarray:
        start, stop, _ = positions.indices(len(self))
        first, last = (start + self.phase) // self.buffer, (stop - 1 + self.phase) // self.buffer
        parts = [self._window(w)[max(start - self._begin(w), 0) : stop - self._begin(w)] for w in range(first, last + 1)]
        return np.concatenate(parts) if stop > start else np.empty(0, np.int64)

    def _begin(self, window: int) -> int:
        return max(window * self.buffer - self.phase, 0)

    def _window(self, window: int) -> np.ndarray:
        """The indices of the samples of a window, mixed."""
        if window not in self._windows:
            places = np.arange(self._begin(window), min(self._begin(window + 1), len(self)))
            np.random.Generator(np.random.PCG64(key(self.seed, self.epoch, 2, window))).shuffle(places)
            self._windows[window] = places + self.shift[np.searchsorted(self.ends, places, side="right")]
            while len(self._windows) > 2:
                self._windows.popitem(last=False)
        return self._windows[window]


class Epochs:
    """The epochs of a source one after another, without end: every sample once in each.

    The order of an epoch is the source's own (`source.order(seed, epoch)`), where it has one, else a full shuffle.
    """

    def __init__(self, source: Any, seed: int) -> None:
        self.source, self.seed = source, seed
        self._orders: OrderedDict[int, Order] = OrderedDict()

    def order(self, epoch: int) -> Order:
        """The order of one epoch. The last two are kept: loading runs ahead of training."""
        if epoch not in self._orders:
            if hasattr(self.source, "order"):
                self._orders[epoch] = self.source.order(self.seed, epoch)
            else:
                self._orders[epoch] = full_shuffle(len(self.source), self.seed, epoch)
            while len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[epoch]

    def pairs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        samples, epochs, indices = len(self.source), [], []
        for epoch in range(start // samples, (stop - 1) // samples + 1):
            part = self.order(epoch)[max(start - epoch * samples, 0) : stop - epoch * samples]
            epochs.append(np.full(len(part), epoch, np.int64))
            indices.append(np.asarray(part, np.int64))
        return np.concatenate(epochs), np.concatenate(indices)


def positions_of(source: Any, seed: int, total: int) -> Positions:
    """The sequence of a source's samples in a run of `total` samples: its own (`source.positions(seed, total)`) or its epochs."""
    return source.positions(seed, total) if hasattr(source, "positions") else Epochs(source, seed)
