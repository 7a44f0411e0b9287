"""What the priors share: random numbers of usual kinds, recursions over time, shapes of seasons."""

from dataclasses import dataclass

import numpy as np

from modalities.time_series.frequency import TOKENS, UNKNOWN

Rng = np.random.Generator
GRID = 128
"""Points of a season's shape."""

SEASONS: dict[str, tuple[tuple[float, float], ...]] = {
    "YE": (), "QE": ((4, 0.85),), "ME": ((12, 0.9),), "W": ((365.25 / 7, 0.75), (365.25 / 84, 0.1)),
    "D": ((7, 0.75), (365.25, 0.5), (30.44, 0.1)), "B": ((5, 0.6), (261, 0.3)), "h": ((24, 0.9), (168, 0.5)), "30min": ((48, 0.9), (336, 0.4)),
    "15min": ((96, 0.9), (672, 0.3)), "10min": ((144, 0.9),), "5min": ((288, 0.9), (12, 0.2)), "min": ((60, 0.5), (1440, 0.5)), "": (),
}  # fmt: skip
"""Frequency -> (steps in a season, how often series have it). The empty name is an unknown frequency."""
SHARES = {"YE": 0.13, "QE": 0.12, "ME": 0.2, "W": 0.11, "D": 0.14, "B": 0.03, "h": 0.12, "30min": 0.02, "15min": 0.02, "10min": 0.01, "5min": 0.01, "min": 0.01, "": 0.08}
"""How often each frequency is drawn."""
NAMES = tuple(SHARES)


@dataclass
class Paths:
    """Series from one prior."""

    values: np.ndarray
    """(n, T) float32."""
    token: np.ndarray
    """(n,) int64: the frequency's number, 0 where the prior has none."""

    @classmethod
    def untimed(cls, values: np.ndarray) -> "Paths":
        """Series of no particular frequency."""
        return cls(values.astype(np.float32, copy=False), np.full(len(values), UNKNOWN))


def log_uniform(rng: Rng, low: float, high: float, size: int | tuple[int, ...]) -> np.ndarray:
    """Numbers between `low` and `high` whose logarithm is uniform."""
    return np.exp(rng.uniform(np.log(low), np.log(high), size)).astype(np.float32)


def some(rng: Rng, share: float, count: int) -> np.ndarray:
    """(count,) bool: which ones, each with probability `share`."""
    return rng.random(count) < share


def normal(rng: Rng, *size: int) -> np.ndarray:
    """Standard normal float32."""
    return rng.standard_normal(size, dtype=np.float32)


def standardised(values: np.ndarray) -> np.ndarray:
    """Rows (n, T) with mean 0 and standard deviation 1; constant rows become 0."""
    centred = values - values.mean(1, keepdims=True)
    return centred / np.maximum(centred.std(1, keepdims=True), 1e-6)


def autoregressive(noise: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """x_t = memory * x_{t-1} + noise_t for rows (n, T) with a memory each (n,); begins at the stationary spread where there is one."""
    columns = np.ascontiguousarray(noise.T)
    columns[0] /= np.sqrt(np.maximum(1 - memory**2, 0.02))
    for t in range(1, len(columns)):
        columns[t] += memory * columns[t - 1]
    return np.ascontiguousarray(columns.T)


def frequencies(rng: Rng, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices into NAMES, tokens), (count,) each."""
    shares = np.array(list(SHARES.values()))
    chosen = rng.choice(len(NAMES), count, p=shares / shares.sum())
    return chosen, np.array([TOKENS.get(name, UNKNOWN) for name in NAMES])[chosen]


def periods(rng: Rng, chosen: np.ndarray) -> np.ndarray:
    """Steps in the first and second season of series of frequencies NAMES[chosen] (n,): (2, n), 0 where there is none.

    An unknown frequency has seasons of any length from 2 to 400 steps, a yearly one sometimes a cycle.
    """
    found = np.zeros((2, len(chosen)), np.float32)
    for number, name in enumerate(NAMES):
        rows = np.flatnonzero(chosen == number)
        if name in ("", "YE"):
            for place, share in enumerate((0.8, 0.2) if name == "" else (0.2, 0.0)):
                found[place, rows] = np.where(some(rng, share, len(rows)), log_uniform(rng, *((2, 400) if name == "" else (3, 20)), len(rows)), 0)
            continue
        place = np.zeros(len(rows), np.int64)
        for steps, share in SEASONS[name]:
            have = some(rng, share, len(rows)) & (place < 2)
            found[place[have], rows[have]] = steps
            place += have
    return found


def shapes(rng: Rng, count: int, roughest: int = 24) -> np.ndarray:
    """Random shapes of a season, (count, GRID), mean 0 and standard deviation 1: sums of harmonics, rough profiles, pulses and blocks."""
    phase = np.arange(GRID, dtype=np.float32) / GRID
    kind = rng.choice(4, count, p=(0.5, 0.25, 0.1, 0.15))
    table = np.empty((count, GRID), np.float32)
    smooth = np.flatnonzero(kind <= 1)
    orders = np.arange(1, roughest + 1, dtype=np.float32)
    waves = np.concatenate([np.cos(2 * np.pi * orders[:, None] * phase), np.sin(2 * np.pi * orders[:, None] * phase)])
    fall = np.where(kind[smooth] == 0, rng.uniform(0.7, 3, len(smooth)), rng.uniform(0, 0.7, len(smooth))).astype(np.float32)
    strength = orders ** -fall[:, None] * (orders <= rng.integers(1, roughest, len(smooth))[:, None])
    table[smooth] = (normal(rng, len(smooth), 2 * roughest) * np.tile(strength, 2)) @ waves
    for number in (2, 3):
        rows = np.flatnonzero(kind == number)
        away = np.abs((phase - rng.random((len(rows), 1)) + 0.5) % 1 - 0.5).astype(np.float32)
        if number == 2:  # one short pulse
            table[rows] = np.exp(-0.5 * (away / log_uniform(rng, 0.01, 0.08, (len(rows), 1))) ** 2)
        else:  # two levels with ramps of any steepness between them
            table[rows] = 1 / (1 + np.exp(np.clip((away - rng.uniform(0.1, 0.35, (len(rows), 1))) * log_uniform(rng, 20, 400, (len(rows), 1)), -30, 30)))
        table[rows] *= rng.choice((-1, 1), (len(rows), 1))
    return standardised(table)


def repeated(table: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """The shape of each row (n, GRID) at phases (n, T), in seasons, by linear interpolation around the circle."""
    place = (phase - np.floor(phase)) * np.float32(GRID)
    left = place.astype(np.int32)
    share = place - left
    flat, first = np.concatenate([table, table[:, :1]], 1).ravel(), np.arange(len(table), dtype=np.int32)[:, None] * (GRID + 1)
    left = np.minimum(left, GRID - 1) + first
    low = flat[left]
    return low + (flat[left + 1] - low) * share


def phases(rng: Rng, period: np.ndarray, length: int, drift: float = 0.0) -> np.ndarray:
    """Time in seasons (n, T) of series with `period` steps in a season (n,), begun anywhere; `drift` is the share whose clock is uneven."""
    time = np.arange(length, dtype=np.float32) / np.maximum(period, 1)[:, None].astype(np.float32) + rng.random((len(period), 1), np.float32)
    uneven = np.flatnonzero(some(rng, drift, len(period)))
    if len(uneven):
        steps = normal(rng, len(uneven), length) * (log_uniform(rng, 0.01, 0.15, len(uneven)) / np.sqrt(np.maximum(period[uneven], 2)))[:, None]
        time[uneven] += np.cumsum(steps, 1)
    return time
