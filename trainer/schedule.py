"""Learning-rate schedules as pure functions of progress: nothing to save, nothing to restore."""

import math
from dataclasses import dataclass

from trainer.errors import ConfigError


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then half a cosine down to a floor (as MAE and most ViT recipes)."""

    warmup: float = 0.05
    """Length of the warm-up as a fraction of the whole run (40 of 800 epochs in MAE)."""
    floor: float = 0.0
    """Last learning rate as a fraction of the peak."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1 or not 0 <= self.floor <= 1:
            raise ConfigError(
                f"schedule.warmup must be in [0, 1) and schedule.floor in [0, 1], found {self.warmup} and {self.floor}."
            )

    name = "cosine"

    def milestones(self, steps):
        return []

    def lr(self, step, steps, peak, samples_per_step):
        return peak * self.factor(step, steps)

    def factor(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`, as a fraction of the peak.

        Per step, not per epoch: it starts at 0 and rises linearly, as in MAE's code (`util/lr_sched.py`).
        """
        warmup = self.warmup * steps
        if step < warmup:
            return step / warmup
        progress = (step - warmup) / max(steps - warmup, 1e-12)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
