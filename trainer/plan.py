"""What each step of a run takes: how many samples, at which size, at which share of the learning rate.

A plan is a pure function of the step, as the order of the samples is, so that a resumed run goes on exactly and all processes agree.
"""

import bisect
from dataclasses import dataclass
from typing import Protocol

Size = tuple[int, ...]
"""Lengths of an input along its axes: (frames, height, width) of a clip."""


class Plan(Protocol):
    """What the steps of a run take."""

    steps: int
    """Optimizer steps of the run."""
    entry: str | None
    """The entry of the batch whose size changes; None when all samples have the size of the source."""

    def batch_size(self, step: int) -> int:
        """Samples of a step, over all processes."""

    def start(self, step: int) -> int:
        """Samples taken before a step; of `steps`: in the whole run."""

    def size(self, step: int) -> Size | None:
        """Lengths that the samples of a step have along their axes; None: as the source gives them."""

    def progress(self, step: int) -> tuple[int, int]:
        """(steps done, length of the run), as the schedule of the learning rate counts them."""

    def lr(self, step: int) -> float:
        """Factor on the scheduled learning rate of a step."""


@dataclass(frozen=True)
class Even:
    """Every step takes as many samples, as they are."""

    each: int
    """Samples of a step."""
    steps: int
    """Optimizer steps of the run."""
    entry: str | None = None
    """No size changes."""

    def batch_size(self, step: int) -> int:
        return self.each

    def start(self, step: int) -> int:
        return step * self.each

    def size(self, step: int) -> None:
        return None

    def progress(self, step: int) -> tuple[int, int]:
        return step, self.steps

    def lr(self, step: int) -> float:
        return 1.0


def step_at(plan: Plan, done: int) -> int:
    """The first step at which the schedule of the learning rate has counted `done` steps."""
    return bisect.bisect_left(range(plan.steps), done, key=lambda step: plan.progress(step)[0])
