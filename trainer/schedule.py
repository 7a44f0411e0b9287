"""Learning-rate schedules: one config for all of them, and the curve (trainer.phases) that it stands for."""

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

from trainer import phases
from trainer.phases import Curve
from trainer.errors import ConfigError

Name = Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt", "infinite", "rewarm", "power"]

WARMUP = ("warmup", "warmup_steps", "warmup_start", "warmup_style")
DECAY = ("decay", "decay_steps", "decay_style")
TAIL = (*DECAY, "decay_floor")
TAKES: dict[str, tuple[str, ...]] = {
    "constant": (*WARMUP, *TAIL),
    "linear": (*WARMUP, "floor", "horizon", *TAIL),
    "cosine": (*WARMUP, "floor", "horizon", *TAIL),
    "wsd": (*WARMUP, "floor", *DECAY),
    "inverse_sqrt": (*WARMUP, "timescale", *TAIL),
    "infinite": (*WARMUP, "floor", "cooldown_end", "cooldown_steps", "cooldown_style", "constant_lr", "constant_end", "decay_steps", "task"),
    "rewarm": (*WARMUP, "floor", *TAIL),
    "power": (*WARMUP, "power_a", "power_b", *TAIL),
}
"""The fields that each schedule reads."""

EITHER = (("warmup", "warmup_steps"), ("decay", "decay_steps"), ("cooldown_end", "cooldown_steps"), ("constant_end", "decay_steps"))
"""Pairs of fields that say one length in two ways; one of them may be given."""

RANGES = {
    "warmup": (0.0, 1.0, "[)"), "warmup_steps": (0, math.inf, "[)"), "warmup_start": (0.0, 1.0, "[]"), "floor": (0.0, 1.0, "[]"),
    "horizon": (1.0, math.inf, "[)"),
    "decay": (0.0, 1.0, "(]"), "decay_steps": (1, math.inf, "[)"), "decay_floor": (0.0, 1.0, "[]"), "timescale": (0.0, math.inf, "()"),
    "power_a": (0.0, math.inf, "()"), "power_b": (-math.inf, 0.0, "(]"), "cooldown_end": (0.0, 1.0, "[]"),
    "cooldown_steps": (0, math.inf, "[)"), "constant_lr": (0.0, 1.0, "(]"), "constant_end": (0.0, 1.0, "[]"), "task": (0, math.inf, "[)"),
}  # fmt: skip
"""Least and largest value of each number; a round bracket leaves the bound itself out."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over time: a warm-up, then the schedule's own curve, at the end perhaps a decay tail.

    A pure function of the step: nothing is saved with a checkpoint. A field that the chosen schedule does not
    read must stay null. Lengths are fractions of the run or, as `*_steps`, absolute; a fraction needs a run whose
    length is known. Phases that lean on the end of the run (wsd's decay, the annealing of infinite, a tail) do not
    come as long as the run is open-ended.
    """

    name: Name = "cosine"
    """constant; linear or cosine down to `floor`; wsd (warm-up, stable, decay); inverse_sqrt (1/sqrt of the step); infinite (warm-up,
    cooldown, constant, annealing, for a stream of tasks); rewarm (cosine with the defaults for continued training); power (by the data seen)."""
    warmup: float | None = None
    """Length of the warm-up as a fraction of the whole run (40 of 800 epochs in MAE). Null: 0.05, rewarm 0.01."""
    warmup_steps: int | None = None
    """Length of the warm-up in steps, instead of warmup."""
    warmup_start: float | None = None
    """Where the warm-up starts, as a fraction of where it ends. Null: 0; wsd: `floor` (as transformers; timm starts at 0)."""
    warmup_style: phases.Rise | None = None
    """How the warm-up rises. Null: linear."""
    floor: float | None = None
    """Last learning rate as a fraction of the peak (linear, cosine, wsd, rewarm, infinite). Null: 0, rewarm 0.1, infinite 0.01."""
    horizon: float | None = None
    """linear, cosine: how many times as long as the run the curve is; the run ends before it does. It holds for the weight decay's, too. Null: 1."""
    decay: float | None = None
    """Last part of the run, as a fraction of it, in which the learning rate falls from the value that it has: wsd's own decay (null: 0.1),
    and a tail that any other schedule but infinite may have (null: none)."""
    decay_steps: int | None = None
    """Length of that part in steps, instead of decay. For infinite: of the annealing, instead of constant_end."""
    decay_style: Literal["linear", "cosine", "1-sqrt", "exponential"] | None = None
    """How it falls. Null: cosine."""
    decay_floor: float | None = None
    """Where a tail ends, as a fraction of where it begins. Null: 0. (wsd ends at `floor`.)"""
    timescale: float | None = None
    """inverse_sqrt: steps after the warm-up in which the learning rate falls to 1/sqrt(2). Null: the length of the warm-up, 10,000 without one."""
    cooldown_end: float | None = None
    """infinite: where the cooldown ends, as a fraction of the whole run, warm-up included. Null: 0.15."""
    cooldown_steps: int | None = None
    """infinite: length of the cooldown in steps, instead of cooldown_end."""
    cooldown_style: Literal["cosine", "inverse_sqrt", "linear"] | None = None
    """infinite: how it falls from the peak to constant_lr. Null: cosine."""
    constant_lr: float | None = None
    """infinite: learning rate of the constant phase as a fraction of the peak. Null: 0.25."""
    constant_end: float | None = None
    """infinite: where the constant phase ends and the annealing to `floor` begins, as a fraction of the whole run. Null: 0.8."""
    task: int | None = None
    """infinite: number of the task in a stream. Null: 0. From 1 on there is no warm-up and no cooldown (their fields describe task 0):
    the run goes on from a checkpoint that was taken before annealing, so it is constant, then annealed."""
    power_a: float | None = None
    """power: a of min(peak, a * (samples seen)^b), the factor for the batch size included. It must be given."""
    power_b: float | None = None
    """power: b, the exponent. Null: -0.51 (Power Scheduler, arXiv 2408.13359)."""

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name" and getattr(self, f.name) is not None}
        for name, value in given.items():
            takers = [schedule for schedule, taken in TAKES.items() if name in taken]
            if self.name not in takers:
                raise ConfigError(
                    f"schedule.{name}={value} has no meaning for schedule.name={self.name!r}; it belongs to {', '.join(takers)}. Leave it out (null)."
                )
            low, high, ends = RANGES.get(name, (value, value, "[]"))  # the styles are words
            if not ((low <= value if ends[0] == "[" else low < value) and (value <= high if ends[1] == "]" else value < high)):
                raise ConfigError(f"schedule.{name} must be in {ends[0]}{low:g}, {high:g}{ends[1]}, found {value}.")
        if self.name == "power" and self.power_a is None:
            raise ConfigError("schedule.name='power' needs schedule.power_a, the a of min(peak, a * (samples seen)^b).")
        if (self.decay_style or self.decay_floor is not None) and not self._decays:
            raise ConfigError("schedule.decay_style and decay_floor describe a decay: say how long it is with schedule.decay or decay_steps.")
        if self.decay_style == "exponential" and not (self._floor if self.name == "wsd" else self.decay_floor):
            raise ConfigError(f"An exponential decay never reaches 0: give schedule.{'floor' if self.name == 'wsd' else 'decay_floor'} above 0.")
        if self.name == "infinite" and not 0 < self._floor <= self._constant_lr:
            raise ConfigError(
                f"The annealing of 'infinite' goes from constant_lr down to floor, above 0: found constant_lr={self._constant_lr} and floor={self._floor}."
            )

    def lr(self, step: int, steps: int | None, peak: float, samples_per_step: int) -> float:
        """Learning rate of step `step` (from 0) of a run of `steps` steps, None for an open-ended one.

        Per step, not per epoch. `peak` is the highest learning rate, `samples_per_step` the global batch. After
        the last step it stays where it was. Raises ConfigError when the phases do not fit `steps`, or when the
        run is open-ended and the schedule needs to know its length.
        """
        return peak * _curve(self, steps, peak, samples_per_step)(step)

    def milestones(self, steps: int | None) -> list[int]:
        """Steps at whose beginning the learning rate starts on its way to the end of the run.

        The state before such a step is worth keeping for ever: a later run or task goes on from there, not from
        the annealed weights. It is the start of wsd's decay, of the annealing of infinite, and of a decay tail.
        Raises ConfigError, as `lr` does, when the phases do not fit `steps`.
        """
        begin = math.inf if steps is None else self._phases(steps)[2]
        return [int(begin)] if 0 < begin < (steps or 0) else []

    def warmup_length(self, steps: int | None) -> float:
        """Steps of the warm-up. A fraction is not rounded, except for infinite, which cuts it down as its authors do."""
        if self.name == "infinite" and self.task:
            return 0
        length = self._length("warmup", "warmup_steps", 0.01 if self.name == "rewarm" else 0.05, steps)
        return length if self.name != "infinite" else int(length)

    @property
    def _decays(self) -> bool:
        return self.name == "wsd" or (self.name != "infinite" and (self.decay is not None or self.decay_steps is not None))

    @property
    def _floor(self) -> float:
        return {"rewarm": 0.1, "infinite": 0.01}.get(self.name, 0.0) if self.floor is None else self.floor

    @property
    def _constant_lr(self) -> float:
        return 0.25 if self.constant_lr is None else self.constant_lr

    def _phases(self, steps: int | None) -> tuple[float, float, float]:
        """The steps at which the warm-up ends, the cooldown of infinite ends, and the last phase begins (infinity: never)."""
        warm = cool = self.warmup_length(steps)
        begin = math.inf if steps is None else steps
        if self.name == "infinite":
            if not self.task:
                end = self._length("cooldown_end", "cooldown_steps", 0.15, steps)
                cool = int(end) if self.cooldown_steps is None else warm + self.cooldown_steps
            if steps is not None:
                end = self._length("constant_end", "decay_steps", 0.8, steps)
                begin = int(end) if self.decay_steps is None else steps - self.decay_steps
        elif self._decays and steps is not None:
            begin = steps - self._length("decay", "decay_steps", 0.1, steps)
            if self.decay_steps is None and warm <= begin + 1e-6:  # in whole steps, which must not reach back into the warm-up
                begin = max(round(begin), min(math.ceil(warm - 1e-6), steps))
                warm = cool = min(warm, begin)
        if not warm <= cool <= begin or (steps is not None and begin > steps):
            ends = {"warm-up": warm, **({"cooldown": cool} if self.name == "infinite" else {})}
            found = ", ".join(f"the {phase} would end at step {end:g}" for phase, end in ends.items())
            found += f", and the last phase would begin at step {begin:g}" if begin != steps else ""
            raise ConfigError(f"The phases of schedule.name={self.name!r} do not fit a run of {steps} steps: {found}. Shorten them or train for longer.")
        return warm, cool, begin

    def _length(self, fraction: str, absolute: str, default: float, steps: int | None) -> float:
        """A length in steps from whichever of two fields gives it."""
        share, count = getattr(self, fraction), getattr(self, absolute)
        if share is not None and count is not None:
            raise ConfigError(
                f"Give either schedule.{fraction} or schedule.{absolute} (and set the other to null), found {share} and {count}."
            )
        if count is not None:
            return count
        share = default if share is None else share
        if steps is None and share:
            raise ConfigError(
                f"schedule.{fraction}={share:g} is a fraction of a run whose length is not known. Give schedule.{absolute}, or the number of steps."
            )
        return share * (steps or 0)


@lru_cache(maxsize=8)
def _curve(config: ScheduleConfig, steps: int | None, peak: float, samples_per_step: int) -> Curve:
    """The factor of the peak over the steps of a run."""
    warm, cool, begin = config._phases(steps)
    floor, rest = config._floor, (math.inf if steps is None else steps) - warm
    if config.name in ("linear", "cosine", "rewarm"):
        if steps is None:
            raise ConfigError(f"schedule.name={config.name!r} needs to know how long the run is. Give the number of steps.")
        rest += steps * ((config.horizon or 1.0) - 1.0)
        curve = phases.fall(1.0, floor, rest, "linear" if config.name == "linear" else "cosine")
    elif config.name == "inverse_sqrt":
        curve = phases.inverse_sqrt(config.timescale or warm or 10_000)
    elif config.name == "power":
        law = phases.power_law(peak, config.power_a, -0.51 if config.power_b is None else config.power_b, samples_per_step)
        curve = phases.later(law, warm)
    elif config.name == "infinite":
        level = config._constant_lr
        annealing = (math.inf, phases.fall(level, floor, 0 if steps is None else steps - begin, "exponential"))
        if config.task:
            return phases.join((begin, phases.constant(level)), annealing)
        cooldown = phases.fall(1.0, level, cool - warm, config.cooldown_style or "cosine")
        curve = phases.join((cool - warm, cooldown), (begin - cool, phases.constant(level)), annealing)
    else:
        curve = phases.constant()
    start = floor if config.name == "wsd" else 0.0
    curve = phases.warm_up(curve, warm, start if config.warmup_start is None else config.warmup_start, config.warmup_style or "linear")
    if config._decays and steps is not None and begin < steps:
        end = floor if config.name == "wsd" else config.decay_floor or 0.0
        curve = phases.tail(curve, begin, steps - begin, end, config.decay_style or "cosine")
    return curve
