"""How long training waits for data, and what would help."""

import logging
import os
import time
from collections.abc import Iterator

from trainer.objective import Batch

TOO_MUCH = 0.1
"""Share of the time from which on advice is given."""
PATIENCE = 20.0
"""Seconds of training that are judged."""

log = logging.getLogger("zoo")


class Waiting:
    """Counts the time that `next` waits. Says once what would help when that is more than a tenth.

    The first interval is not judged: workers start and files are opened.
    """

    def __init__(self, workers: int) -> None:
        self.workers, self.cores = workers, len(os.sched_getaffinity(0))
        self.waited = 0.0
        self._judged: list[tuple[float, float]] | None = None
        self._told = False

    def next(self, stream: Iterator[Batch]) -> Batch:
        """The next batch of the stream."""
        began = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - began
        return batch

    def share(self, took: float) -> float:
        """The share of the last `took` seconds that was spent in `next`; the count begins again."""
        waited, self.waited = self.waited, 0.0
        if self._judged is None:
            self._judged = []
        elif not self._told:
            self._judged.append((waited, took))
            lost, total = (sum(column) for column in zip(*self._judged))
            if total >= PATIENCE:
                self._judged = []
                if lost > TOO_MUCH * total:
                    self._told = True
                    log.warning("Training waits for data %.0f %% of the time: %s.", 100 * lost / total, self.advice())
        return waited / took

    def advice(self) -> str:
        """The knob to turn."""
        if self.workers < self.cores - 1:
            return f"raise train.workers from {self.workers} to {self.cores - 1} (the machine has {self.cores} cores)"
        if self.workers == 0:
            return "set train.workers=1, so that the next batch is read while the model computes"
        return (
            f"{self.workers} worker(s) on {self.cores} core(s) read as fast as they can; pack many small files into shards, store pictures no larger "
            "than training needs, use less augmentation, or more cores"
        )
