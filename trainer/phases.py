"""Learning-rate curves: pure functions of the step, and the few ways to put them together.

Nothing is saved and nothing is restored: the value at a step follows from the step alone. Curves give a factor
of the peak learning rate, so that 1 is the peak.
"""

import math
from collections.abc import Callable
from typing import Literal

Curve = Callable[[float], float]
"""Factor of the peak at a step, counted from the beginning of the curve (step 0)."""

Shape = Literal["linear", "cosine", "1-sqrt", "inverse_sqrt", "exponential"]
"""How a value goes from one level to another."""

Rise = Literal["linear", "cosine", "1-sqrt"]
"""How a warm-up rises."""

SHARPNESS = 10.0
"""Of the inverse square root between two levels, as in the code of "Beyond Cosine Decay"."""

LEFT: dict[str, Curve] = {
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "1-sqrt": lambda p: 1.0 - math.sqrt(p),
    "inverse_sqrt": lambda p: 1.0 - (1.0 / math.sqrt(1.0 + SHARPNESS * p) - 1.0) / (1.0 / math.sqrt(1.0 + SHARPNESS) - 1.0),
}
"""The share of a fall that is still to come when the part p of its steps is done: from 1 to 0."""


def constant(value: float = 1.0) -> Curve:
    """Always the same, without an end."""
    return lambda step: value


def fall(start: float, end: float, length: float, shape: Shape = "linear") -> Curve:
    """From `start` at step 0 to `end` at step `length`, where it stays. "exponential" needs an `end` above 0."""

    def curve(step: float) -> float:
        progress = min(step / length, 1.0) if length > 0 else float(step > 0)
        if shape == "exponential":
            return start * (end / start) ** progress
        return end + (start - end) * LEFT[shape](progress)

    return curve


def warm_up(curve: Curve, length: float, start: float = 0.0, shape: Rise = "linear") -> Curve:
    """`curve` after a rise of `length` steps to its first value, from that value times `start`."""
    first = curve(0.0)

    def rise(step: float) -> float:
        progress = step / length if length > 0 else 1.0
        share = progress if shape == "linear" else LEFT[shape](1.0 - progress)
        return first * (start + (1.0 - start) * share)

    return join((length, rise), (math.inf, curve))


def join(*phases: tuple[float, Curve]) -> Curve:
    """Curves one after another, each with its length in steps; the last may be endless.

    The step on a border belongs to the earlier phase (`<=`, as in the code of "Beyond Cosine Decay"): where two
    phases meet at one value this makes no difference, and a phase of no length never hides the one before it.
    """

    def curve(step: float) -> float:
        for length, phase in phases[:-1]:
            if step <= length:
                return phase(step)
            step -= length
        return phases[-1][1](step)

    return curve


def tail(curve: Curve, begin: float, length: float, end: float = 0.0, shape: Shape = "linear") -> Curve:
    """`curve` up to step `begin`, then `length` steps from the value it has there to that value times `end`."""
    value = curve(begin)
    return join((begin, curve), (math.inf, fall(value, value * end, length, shape)))


def inverse_sqrt(timescale: float) -> Curve:
    """1 / sqrt(1 + step / timescale), without an end."""
    return lambda step: 1.0 / math.sqrt(1.0 + step / timescale)


def power_law(peak: float, a: float, b: float, samples_per_step: float) -> Curve:
    """min(peak, a * (samples seen)^b) as a factor of `peak`, without an end (Power Scheduler, arXiv 2408.13359).

    The learning rate itself follows from the data seen and not from `peak`, which only bounds it.
    """

    def curve(step: float) -> float:
        if step <= 0 or peak <= 0:  # the law has no value at 0, and a falling one is above every bound there
            return 1.0
        return min(1.0, a * (step * samples_per_step) ** b / peak)

    return curve


def later(curve: Curve, steps: float) -> Curve:
    """`curve` without its first `steps` steps."""
    return lambda step: curve(step + steps)
