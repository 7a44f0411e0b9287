"""Processes that are pulled towards a moving mean and change their regime: Ornstein-Uhlenbeck, cycles, level shifts."""

import numpy as np

from modalities.time_series.synthetic.draws import Paths, Rng, log_uniform, normal, some
from modalities.time_series.synthetic.structural import smooth_walk

STEP = 0.01
"""Time between two points of an Ornstein-Uhlenbeck process."""
SEASONS = np.array((7, 30, 90, 182.6, 365.25), np.float32)
"""Of its mean and its noise, in steps."""


def regime_switching(rng: Rng, count: int, length: int) -> Paths:
    """Ornstein-Uhlenbeck with two regimes, one calm and quick to return, one wild and slow, of ranges as TempoPFN documents.

    x += theta (mu - x) dt + sigma sqrt(dt) noise, where mu, theta and sigma may have a trend, and mu and sigma seasons.
    """
    time = np.linspace(0, 1, length, dtype=np.float32)
    stay = rng.uniform(0.85, 0.999, (2, count))
    regime = np.empty((length, count), np.int64)
    state, chance = rng.integers(0, 2, count), rng.random((length, count))
    for t in range(length):
        state = np.where(chance[t] > np.where(state == 0, stay[0], stay[1]), 1 - state, state)
        regime[t] = state
    theta = np.choose(regime, (rng.uniform(1, 5, count), rng.uniform(0.05, 0.5, count))).astype(np.float32)
    mean = np.choose(regime, (rng.normal(-2, 1, count), rng.normal(2, 1, count))).astype(np.float32)
    sigma = np.choose(regime, (rng.lognormal(np.log(0.3), 0.3, count), rng.lognormal(np.log(1.5), 0.5, count))).astype(np.float32)
    mean += (_moving_mean(rng, count, length, time) + _season(rng, count, length, 0.6)).T
    theta *= np.exp(np.where(some(rng, 0.2, count), rng.normal(0, 0.5, count), 0) * time[:, None])
    sigma *= np.exp(np.where(some(rng, 0.3, count), rng.normal(0, 0.7, count), 0) * time[:, None] + np.clip(_season(rng, count, length, 0.3).T / 3, -1, 1))
    noise = normal(rng, length, count) * sigma * np.float32(STEP**0.5)
    pull, values = theta * np.float32(STEP), np.empty((length, count), np.float32)
    x = rng.normal(0, 2, count).astype(np.float32)
    for t in range(length):
        x = x + pull[t] * (mean[t] - x) + noise[t]
        values[t] = x
    scaled = values.T * rng.uniform(0.1, 50, (count, 1)) + rng.uniform(-100, 100, (count, 1))
    return Paths.untimed(scaled + rng.uniform(0, 0.1, (count, 1)) * normal(rng, count, length))


def _moving_mean(rng: Rng, count: int, length: int, time: np.ndarray) -> np.ndarray:
    """Trends (count, length) of the mean, for 70 % of the series, with up to two shifts of the level."""
    line = rng.uniform(-0.01, 0.01, (count, 1)) * length * time
    wave = rng.uniform(1, 5, (count, 1)) * np.sin(2 * np.pi * (time / rng.uniform(0.1, 0.5, (count, 1)) + rng.random((count, 1))))
    rise = rng.uniform(-5, 5, (count, 1)) / (1 + np.exp((rng.random((count, 1)) - time) * 15))
    slow = smooth_walk(rng, count, length) * rng.uniform(0.5, 3, (count, 1))
    kind = rng.choice(5, (count, 1), p=(0.3, 0.2, 0.15, 0.15, 0.2))
    shifts = sum(some(rng, 0.4, count)[:, None] * rng.uniform(1, 5, (count, 1)) * rng.choice((-1, 1), (count, 1)) * (time > rng.random((count, 1))) for _ in range(2))
    return (np.choose(kind, (np.zeros_like(line), line, wave, rise, slow)) + shifts).astype(np.float32)


def _season(rng: Rng, count: int, length: int, share: float) -> np.ndarray:
    """One or two sines of the usual seasons, give or take 5 %, for a share of the series, (count, length)."""
    values, steps = np.zeros((count, length), np.float32), np.arange(length, dtype=np.float32)
    have = some(rng, share, count)
    for part in (1.0, 0.5):
        period = rng.choice(SEASONS, (count, 1)) * rng.uniform(0.95, 1.05, (count, 1))
        size = rng.uniform(0.5, 3, (count, 1)) * (have & some(rng, part, count))[:, None]
        values += (size * np.sin(2 * np.pi * (steps / period + rng.random((count, 1))))).astype(np.float32)
    return values


def cycles(rng: Rng, count: int, length: int) -> Paths:
    """Cycles whose length and height change from one to the next, in part with steep rises and flat troughs: populations, sunspots, business."""
    period = log_uniform(rng, 4, 120, (count, 1))
    uneven = log_uniform(rng, 0.01, 0.4, (count, 1)) / np.sqrt(period)
    phase = 2 * np.pi * (np.cumsum(1 / period + uneven * normal(rng, count, length) / np.sqrt(period), 1) + rng.random((count, 1)))
    skew = rng.uniform(0, 0.9, (count, 1)).astype(np.float32)
    values = np.sin(phase + skew * np.sin(phase))
    height = np.exp(smooth_walk(rng, count, length) * rng.uniform(0, 0.5, (count, 1)))
    peaked = some(rng, 0.5, count)[:, None]
    values = np.where(peaked, np.exp(values * rng.uniform(0.3, 2, (count, 1))), values) * height
    values = values + normal(rng, count, length) * log_uniform(rng, 0.01, 0.5, (count, 1))
    floored = np.flatnonzero(some(rng, 0.2, count))
    values[floored] = np.maximum(values[floored], np.quantile(values[floored], 0.2, axis=1, keepdims=True)) if len(floored) else values[floored]
    return Paths.untimed(values)
