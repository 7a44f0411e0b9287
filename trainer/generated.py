"""Data that is made, not read: sample i is a pure function of (seed, i), whatever process makes it and when.

A modality writes one function that draws a sample from the seeded global generators (torch, numpy, random); this turns it into
a source for demos, tests and pre-training on synthetic data. Small real sets that come with a library are arrays in memory:
see `trainer.sources.Arrays`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from trainer.errors import ConfigError
from trainer.order import Positions
from trainer.randomness import seeded

STREAM = 0x67656E
"""Keeps the samples' own random numbers apart from those of augmentation, which the loader seeds with (seed, epoch, index)."""


class Generated:
    """A source of generated samples, the same ones in each epoch.

    `make(index)` gives one sample as a dict of tensors and draws all its randomness from the global generators, which are
    seeded by (seed, index) for it and put back afterwards. It runs in loader workers; where those are not forked, it must be
    picklable.
    """

    def __init__(self, make: Callable[[int], dict[str, Tensor]], samples: int, seed: int = 0, name: str = "generated", about: dict[str, Any] | None = None) -> None:
        """`samples`: length of an epoch. `about`: facts for logs and cards (how the data arise, licence). ConfigError for impossible numbers."""
        if samples < 1 or seed < 0:
            raise ConfigError(f"Generated data need at least 1 sample in an epoch and a seed of at least 0, found {samples} and {seed}.")
        self.make, self.samples, self.seed, self.name, self.about = make, samples, seed, name, about or {}

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self._end():
            raise IndexError(f"sample {index} of {self.samples}")
        with seeded(STREAM, self.seed, index):
            return self.make(index)

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        return {"name": self.name, "samples": self.samples, "seed": self.seed, **self.about}

    def _end(self) -> float:
        return self.samples


class Endless(Generated):
    """Generated samples of which none comes twice: the position in the run is the index, and an epoch is only a unit of length."""

    def positions(self, seed: int, total: int) -> Positions:
        """The sequence of the samples: one after another, since there is nothing to shuffle."""
        return _Onwards(self.samples)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "samples": f"endless, {self.samples} in what counts as an epoch"}

    def _end(self) -> float:
        return math.inf


class _Onwards:
    """Every position is a sample of its own."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def pairs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, indices) of the positions `start` to `stop` - 1."""
        indices = np.arange(start, stop, dtype=np.int64)
        return indices // self.samples, indices
