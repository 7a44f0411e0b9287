"""The prior of ForecastPFN (Dooley et al. 2023, arXiv 2311.01933): trend times seasons of the calendar times Weibull noise.

The ranges, and the second form in which trend and seasons are added, are those that TempoPFN (Apache-2.0) documents.
"""

import numpy as np

from modalities.time_series.frequency import TOKENS
from modalities.time_series.synthetic.draws import GRID, Paths, Rng, repeated, some

CALENDAR = {"minute": (1 / 24, 10), "hour": (1.0, 10), "week": (7.0, 4), "month": (30.5, 10), "year": (365.25, 6)}
"""Season -> (days, harmonics): what repeats with it."""
SIZES: dict[str, tuple[float, dict[str, float]]] = {
    "min": (1 / 1440, {"minute": 1.0, "hour": 0.2}), "h": (1 / 24, {"minute": 0.2, "hour": 1.0}), "D": (1.0, {"week": 1.0, "month": 0.2}),
    "W": (7.0, {"month": 0.3, "year": 0.3}), "ME": (30.44, {"year": 0.5, "week": 0.1}), "QE": (91.31, {"year": 1.0}), "YE": (365.25, {"year": 1.0, "week": 0.2}),
}  # fmt: skip
"""Frequency -> (days in a step, season -> largest amplitude)."""
SHARES = (0.05, 0.2, 0.25, 0.15, 0.2, 0.1, 0.05)
"""How often each of these frequencies is drawn."""
LIMIT = 300.0
"""A series that gets larger is drawn again."""
TRIES = 4


def forecast_pfn(rng: Rng, count: int, length: int) -> Paths:
    """(count, length) series; a fifth of them change from one to another with the same amplitudes."""
    names = np.array(list(SIZES))
    chosen = rng.choice(len(names), count, p=SHARES)
    days = np.array([SIZES[name][0] for name in names], np.float32)[chosen]
    largest = np.array([[SIZES[name][1].get(season, 0.0) for season in CALENDAR] for name in names], np.float32)[chosen]
    amplitudes = largest * rng.random(largest.shape, np.float32)
    values = _series(rng, days, amplitudes, length)
    mixed = np.flatnonzero(some(rng, 0.2, count))
    place = np.linspace(0, 1, length, dtype=np.float32)
    weight = 1 / (1 + np.exp((0.5 - place) * np.float32(np.log(81) / 0.6)))  # 0.1 at a fifth of the length, 0.9 at four fifths
    values[mixed] = values[mixed] * (1 - weight) + _series(rng, days[mixed], amplitudes[mixed], length) * weight
    return Paths(values, np.array([TOKENS[name] for name in names])[chosen])


def _series(rng: Rng, days: np.ndarray, amplitudes: np.ndarray, length: int) -> np.ndarray:
    """Series with steps of `days` (n,) and amplitudes of the seasons (n, 5)."""
    values = _draw(rng, days, amplitudes, length)
    for _ in range(TRIES):
        bad = np.flatnonzero((np.abs(values).max(1) > LIMIT) | (np.ptp(values, 1) > LIMIT))
        if not len(bad):
            return values
        values[bad] = _draw(rng, days[bad], amplitudes[bad], length)
    return np.clip(values, -LIMIT, LIMIT)


def _draw(rng: Rng, days: np.ndarray, amplitudes: np.ndarray, length: int) -> np.ndarray:
    count = len(days)
    shape = (count, 1)
    steps = np.arange(length, dtype=np.float32)
    most = np.log(10) / length  # growth over the whole window stays within a factor of ten
    growth = np.minimum(np.clip(rng.normal(0, 0.005, shape), -most, most), np.log(1.01)).astype(np.float32)
    offsets = rng.uniform(-0.1, 0.5, (2, count, 1)).astype(np.float32)
    linear = (rng.normal(0, 0.01, shape)).astype(np.float32)
    trend = (1 + linear * (steps - offsets[0] * length)) * np.exp(growth * (steps - offsets[1] * length))
    together, summed = np.ones((count, length), np.float32), np.zeros((count, length), np.float32)
    for place, (period, harmonics) in enumerate(CALENDAR.values()):
        rows = np.flatnonzero(amplitudes[:, place] > 0)
        season = amplitudes[rows, place, None] * repeated(_shapes(rng, len(rows), harmonics), steps * (days[rows, None] / period) + rng.random((len(rows), 1), np.float32))
        together[rows] *= 1 + season
        summed[rows] += season
    values = np.where(some(rng, 0.5, count)[:, None], trend * together, trend + summed)
    form = rng.uniform(1, 5, shape)
    noise = (rng.weibull(form, (count, length)) / np.log(2) ** (1 / form)).astype(np.float32)  # median 1
    kind = rng.choice(3, shape, p=(0.6, 0.3, 0.1))
    size = np.choose(kind, (rng.uniform(0, 0.1, shape), rng.uniform(0.2, 0.5, shape), rng.uniform(0.7, 0.9, shape))).astype(np.float32)
    return values * (1 + size * (noise - 1))


def _shapes(rng: Rng, count: int, harmonics: int) -> np.ndarray:
    """Sums of harmonics (count, GRID) whose squared coefficients add up to 1: falling like 1/f, or for half of them all alike."""
    orders = np.arange(1, harmonics + 1, dtype=np.float32)
    size = np.where(some(rng, 0.5, count)[:, None], 1 / orders, 1.0)
    weights = rng.normal(0, 1, (count, 2, harmonics)) * size[:, None]
    weights /= np.sqrt((weights**2).sum((1, 2), keepdims=True))
    angles = 2 * np.pi * orders[:, None] * np.arange(GRID) / GRID
    return (weights[:, 0] @ np.sin(angles) + weights[:, 1] @ np.cos(angles)).astype(np.float32)
