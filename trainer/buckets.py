"""Batches of samples of like length or shape, so that little is padded. The order stays a pure function of (seed, epoch)."""

from typing import Any

import numpy as np

from trainer.errors import ConfigError
from trainer.order import Epochs
from trainer.randomness import key

WINDOW = 100
"""Batches that are sorted together."""


class Bucketed:
    """A source whose batches hold samples of like length.

    The order of an epoch is cut into windows of `window` batches; within one the samples are sorted by length, cut into batches again, and
    the batches are shuffled. So each epoch still holds every sample once. A batch in which one epoch ends and the next begins is left as it is.
    """

    def __init__(self, source: Any, lengths: Any, batch_size: int, window: int = WINDOW) -> None:
        """`lengths`: (N,) or, for shapes, (N, axes), the last axis counting most. `batch_size`: that of training. ConfigError when they do not fit."""
        lengths = np.asarray(lengths)
        if len(lengths) != len(source) or lengths.ndim not in (1, 2) or batch_size < 1 or window < 1:
            raise ConfigError(
                f"Expected a length or shape for each of the {len(source):,} samples, batch_size and window at least 1; "
                f"found lengths of shape {lengths.shape}, {batch_size} and {window}."
            )
        if hasattr(source, "positions"):
            raise ConfigError("A resampled mixture has no epochs to sort in. Bucket its parts' data beforehand, or use mode=exact.")
        self.source, self.batch_size, self.window = source, batch_size, window
        self.lengths = lengths.reshape(len(lengths), -1)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("source", "counts"):
            raise AttributeError(name)
        return getattr(self.source, name)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The order of one epoch, (N,)."""
        order = np.asarray(Epochs(self.source, seed).order(epoch)[0 : len(self)])
        head = -epoch * len(self) % self.batch_size  # samples that belong to the last batch of the epoch before
        batches = (len(order) - head) // self.batch_size
        if batches <= 0:
            return order
        body = order[head : head + batches * self.batch_size]
        window = np.arange(len(body)) // (self.batch_size * self.window)
        body = body[np.lexsort((*self.lengths[body].T, window))].reshape(batches, self.batch_size)
        rng = np.random.Generator(np.random.PCG64(key(seed, epoch, 3)))
        for first in range(0, batches, self.window):
            body[first : first + self.window] = rng.permutation(body[first : first + self.window])
        return np.concatenate([order[:head], body.reshape(-1), order[head + batches * self.batch_size :]])
