"""Several sources as one, in fixed or changing proportions.

Which source a position takes is a pure function of (seed, position): positions are cut into blocks, each source gets its share of every
block to within one sample of the exact proportion, and the block is shuffled. So the counts up to any position are known without having
been there, a resumed run goes on exactly, and no source is ever far from its share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from trainer.collate import collated
from trainer.data import Source, sample_id
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch
from trainer.order import Epochs, Order, Positions
from trainer.randomness import key, reseed, undisturbed

BLOCK = 4096
"""Positions, at most, in which the proportions are kept."""
STEPS = 200
"""Blocks at least in a run whose shares change, where it has so many samples."""
EVERY = 64
"""Blocks between the counts that are kept; those in between are computed again."""


@dataclass(frozen=True)
class MixtureConfig:
    """How several sources are mixed."""

    mode: Literal["exact", "resampled"] = "exact"
    """exact: an epoch holds every sample of every source once. resampled: the sources in the proportions of their weights,
    each going through its own epochs, small ones more often."""
    weights: tuple[float, ...] | None = None
    """With resampled: share of each source, in any unit. Null: the sources' sizes."""
    temperature: float = 1.0
    """Shares are raised to 1 / temperature: above 1 they become more equal."""
    late_weights: tuple[float, ...] | None = None
    """Shares at the end of the run, to bring in a domain (annealing). Null: those of `weights` throughout."""
    late_from: float = 0.9
    """Part of the run after which the shares move in a straight line to `late_weights`."""

    def __post_init__(self) -> None:
        if self.mode == "exact" and (self.weights is not None or self.late_weights is not None or self.temperature != 1):
            raise ConfigError("Weights and temperature are for mode=resampled: with mode=exact every sample of every source is seen once in an epoch.")
        if not self.temperature > 0 or not 0 <= self.late_from <= 1:
            raise ConfigError(f"A mixture needs temperature above 0 and late_from in 0..1, found {self.temperature} and {self.late_from}.")
        for name in ("weights", "late_weights"):
            values = getattr(self, name)
            if values is not None and (not all(0 <= v < float("inf") for v in values) or sum(values) <= 0):
                raise ConfigError(f"{name} of a mixture must be at least 0 and not all 0, found {values}.")

    def shares(self, sizes: Sequence[int], progress: float) -> np.ndarray:
        """The part of each source at `progress` (0..1) of the run, (S,), summing to 1."""
        early = self._tempered(self.weights or sizes)
        if self.late_weights is None or progress <= self.late_from:
            return early
        along = (progress - self.late_from) / (1 - self.late_from)
        return early + along * (self._tempered(self.late_weights) - early)

    def _tempered(self, weights: Sequence[float]) -> np.ndarray:
        scaled = (np.asarray(weights, float) / max(weights)) ** (1 / self.temperature)
        return scaled / scaled.sum()


class Blocks:
    """Which source each position takes, and the how-manieth sample of that source it is."""

    def __init__(self, sizes: Sequence[int], total: int, seed: int, config: MixtureConfig) -> None:
        """`total`: positions of the run, over which `late_weights` come in; with mode=exact those of an epoch, at whose end all counts are exact."""
        self.sizes, self.total, self.seed, self.config = sizes, total, seed, config
        self.blocks = -(-total // BLOCK) if config.late_weights is None else max(-(-total // BLOCK), min(total, STEPS))
        self._kept = [(np.zeros(len(sizes)), np.zeros(len(sizes), np.int64))]
        """Before every EVERY-th block: what each source should have got, and what it got."""
        self._last: tuple[int, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None
        """The block last taken from: its number; what was due and given after it; what was given before it, its sources and numbers."""

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(sources, numbers within the source) of the positions `start` to `stop` - 1."""
        sources, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for block in range(self._block_of(start), self._block_of(stop - 1) + 1 if stop > start else 0):
            begin = self._begin(block)
            _, source, number = self._block(block)
            part = slice(max(start - begin, 0), stop - begin)
            sources.append(source[part])
            numbers.append(number[part])
        return np.concatenate(sources), np.concatenate(numbers)

    def counts(self, position: int) -> np.ndarray:
        """How many samples of each source lie before a position, (S,)."""
        block = self._block_of(position)
        given, source, _ = self._block(block)
        return given + np.bincount(source[: position - self._begin(block)], minlength=len(given))

    def _begin(self, block: int) -> int:
        """The first position of a block. All are about equally long, and one ends with `total`."""
        return block * self.total // self.blocks

    def _block_of(self, position: int) -> int:
        guess = position * self.blocks // self.total
        return guess + (self._begin(guess + 1) <= position)

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What was given before a block, the sources of its positions, and which of their samples."""
        if self._last is None or self._last[0] != block:
            due, given = self._before(block)
            due, more = self._share(block, due, given)
            source = np.repeat(np.arange(len(given)), more)
            np.random.Generator(np.random.PCG64(key(self.seed, block))).shuffle(source)
            number = np.empty_like(source)
            for s, count in enumerate(more):
                number[source == s] = given[s] + np.arange(count)
            self._last = block, (due, given + more), (given, source, number)
        return self._last[2]

    def _before(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """What each source should have got and got before a block, (S,) each."""
        if self._last is not None and self._last[0] == block - 1:
            return self._last[1]
        while len(self._kept) * EVERY <= block:
            state, first = self._kept[-1], (len(self._kept) - 1) * EVERY
            for b in range(first, first + EVERY):
                state = self._after(b, *state)
            self._kept.append(state)
        state = self._kept[block // EVERY]
        for b in range(block // EVERY * EVERY, block):
            state = self._after(b, *state)
        return state

    def _after(self, block: int, due: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        due, more = self._share(block, due, given)
        return due, given + more

    def _share(self, block: int, due: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is due after a block, and how many of its positions each source gets: whole samples first, the rest to those furthest behind."""
        begin, end = self._begin(block), self._begin(block + 1)
        due = due + (end - begin) * self.config.shares(self.sizes, min((begin + end) / 2 / self.total, 1.0))
        if self.config.mode == "exact" and end == self.total:
            due = np.asarray(self.sizes, float)  # without the rounding of the sums
        owed = due - given
        more = np.maximum(np.floor(owed + 1e-9), 0).astype(np.int64)
        while (missing := end - begin - int(more.sum())) > 0:
            more[np.argmax(np.where(due > 0, owed - more, -np.inf))] += 1
        for _ in range(-missing):  # a source that is ahead of its share gives nothing back, so another one waits
            more[np.argmin(np.where(more > 0, owed - more, np.inf))] -= 1
        return due, more


class Mixture:
    """A source made of several. The index of a sample is its index in its source, after those of the sources before it.

    With mode=exact it has epochs, in each of which every sample comes once, each source in its own order; with mode=resampled
    an "epoch" is only a length: as many samples as all sources hold together.
    """

    def __init__(self, sources: Mapping[str, Source], config: MixtureConfig = MixtureConfig()) -> None:
        """ConfigError when there is one weight too many or too few, or a source has no epochs; DataError when one is empty."""
        self.names, self.sources, self.config = tuple(sources), tuple(sources.values()), config
        self.sizes = [len(source) for source in self.sources]
        self.offsets = np.cumsum([0, *self.sizes])
        for name, size, source in zip(self.names, self.sizes, self.sources):
            if size == 0:
                raise DataError(f"The source {name} of the mixture is empty: 0 samples.")
            if hasattr(source, "positions"):
                raise ConfigError(f"The source {name} is a resampled mixture, which has no epochs, so it cannot be part of another one. Name its parts instead.")
        for field in ("weights", "late_weights"):
            values = getattr(config, field)
            if values is not None and len(values) != len(self.sources):
                raise ConfigError(f"{field} gives {len(values)} number(s) for {len(self.sources)} sources: {', '.join(self.names)}.")
        if not self.sources:
            raise ConfigError("A mixture needs at least one source.")
        self.in_memory = all(getattr(source, "in_memory", False) for source in self.sources)
        self._blocks: dict[tuple[int, int], Blocks] = {}
        if config.mode == "resampled":
            self.positions = self._positions
        else:
            self.order = self._order
        if any(hasattr(source, "fetch") for source in self.sources):
            self.fetch = self._fetch

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, within = self.place(index)
        return self.sources[number][within]

    def place(self, index: int) -> tuple[int, int]:
        """(source, index in it) of an index."""
        number = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return number, index - int(self.offsets[number])

    def id(self, index: int) -> str:
        """`source:id`."""
        number, within = self.place(index)
        return f"{self.names[number]}:{sample_id(self.sources[number], within)}"

    def collate(self, samples: list[dict[str, Any]]) -> Batch:
        """One batch, in the way of the first source."""
        return collated(self.sources[0], samples)

    def counts(self, seed: int, total: int, position: int) -> dict[str, int]:
        """Samples taken of each source before a position of a run of `total` samples."""
        if self.config.mode == "resampled":
            seen = self._plan(seed, total).counts(position)
        else:
            epoch, inside = divmod(position, len(self))
            seen = epoch * np.array(self.sizes) + self._plan(key(seed, epoch), len(self)).counts(inside)
        return dict(zip(self.names, seen.tolist()))

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        parts = [source.describe() if hasattr(source, "describe") else {"samples": len(source)} for source in self.sources]
        return {"name": " + ".join(self.names), "samples": len(self), "mixture": self.config.mode, "parts": dict(zip(self.names, parts))}

    def _plan(self, seed: int, total: int) -> Blocks:
        """The blocks of a run or an epoch; the last two are kept."""
        if (seed, total) not in self._blocks:
            if len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[seed, total] = Blocks(self.sizes, total, seed, self.config)
        return self._blocks[seed, total]

    def _positions(self, seed: int, total: int) -> Positions:
        return _Resampled(self, seed, total)

    def _order(self, seed: int, epoch: int) -> Order:
        return _Mixed(self, seed, epoch)

    def _fetch(self, indices: list[int], keys: np.ndarray | None = None) -> Batch:
        """A whole batch: from each source what it gives at once, put in the order of `indices`."""
        places = [self.place(index) for index in indices]
        parts, rows = [], []
        for number, source in enumerate(self.sources):
            mine = [row for row, (owner, _) in enumerate(places) if owner == number]
            if not mine:
                continue
            within = [places[row][1] for row in mine]
            if hasattr(source, "fetch"):
                parts.append(source.fetch(within, None if keys is None else keys[mine]))
            else:
                parts.append(collated(source, [self._drawn(source, i, None if keys is None else int(keys[row])) for i, row in zip(within, mine)]))
            rows += mine
        back = torch.from_numpy(np.argsort(rows))
        try:
            return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}
        except (RuntimeError, KeyError) as error:
            found = "; ".join(", ".join(f"{name} {tuple(v.shape[1:])}" for name, v in part.items()) for part in parts)
            raise DataError(f"The sources {', '.join(self.names)} give samples that do not fit into one batch: {found}.") from error

    @staticmethod
    def _drawn(source: Source, index: int, sample_key: int | None) -> dict[str, Any]:
        """One sample with its own random numbers."""
        with undisturbed():
            if sample_key is not None:
                reseed(sample_key)
            return source[index]


class _Mixed:
    """The order of one epoch in which every sample of every source comes once."""

    def __init__(self, mixture: Mixture, seed: int, epoch: int) -> None:
        self.mixture, self.blocks = mixture, mixture._plan(key(seed, epoch), len(mixture))
        self.orders = [Epochs(source, key(seed, 1, s)).order(epoch) for s, source in enumerate(mixture.sources)]

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, positions: slice) -> np.ndarray:
        start, stop, _ = positions.indices(len(self))
        sources, numbers = self.blocks.take(start, stop)
        indices = np.empty_like(numbers)
        for s in np.unique(sources):
            mine = sources == s
            first, last = int(numbers[mine].min()), int(numbers[mine].max())
            indices[mine] = self.mixture.offsets[s] + np.asarray(self.orders[s][first : last + 1], np.int64)[numbers[mine] - first]
        return indices


class _Resampled:
    """The endless sequence in which each source has its share and goes through its own epochs."""

    def __init__(self, mixture: Mixture, seed: int, total: int) -> None:
        self.mixture, self.blocks = mixture, mixture._plan(seed, total)
        self.epochs = [Epochs(source, key(seed, 1, s)) for s, source in enumerate(mixture.sources)]

    def pairs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        sources, numbers = self.blocks.take(start, stop)
        epochs, indices = np.empty_like(numbers), np.empty_like(numbers)
        for s in np.unique(sources):
            mine = sources == s
            first, last = int(numbers[mine].min()), int(numbers[mine].max())
            epoch, index = self.epochs[s].pairs(first, last + 1)
            epochs[mine], indices[mine] = epoch[numbers[mine] - first], self.mixture.offsets[s] + index[numbers[mine] - first]
        return epochs, indices
