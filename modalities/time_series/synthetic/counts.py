"""Counts and intermittent demand: whole numbers whose rate has trends and seasons, and sales that happen now and then."""

import numpy as np

from modalities.time_series.synthetic.draws import Paths, Rng, frequencies, log_uniform, periods, some
from modalities.time_series.synthetic.structural import seasons, trends


def rates(rng: Rng, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive rates around 1 (count, length) with trends and seasons, and the tokens of the frequencies (count,)."""
    chosen, token = frequencies(rng, count)
    log_rate = trends(rng, count, length) * np.where(some(rng, 0.6, count), log_uniform(rng, 0.05, 0.6, count), 0)[:, None]
    for period in periods(rng, chosen):
        rows = np.flatnonzero(period > 1)
        log_rate[rows] += seasons(rng, period[rows], length) * rng.uniform(0.1, 0.8, (len(rows), 1)).astype(np.float32)
    return np.exp(np.clip(log_rate, -4, 3)), token


def counts(rng: Rng, count: int, length: int) -> Paths:
    """Poisson counts of a moving rate, of 0.2 to 200 on average, for half of the series with more spread (negative binomial)."""
    rate, token = rates(rng, count, length)
    rate = rate * log_uniform(rng, 0.2, 200, (count, 1))
    spread = np.flatnonzero(some(rng, 0.5, count))
    form = log_uniform(rng, 0.5, 20, (len(spread), 1))
    rate[spread] *= rng.standard_gamma(np.broadcast_to(form, rate[spread].shape), dtype=np.float32) / form
    return Paths(rng.poisson(rate).astype(np.float32), token)


def intermittent(rng: Rng, count: int, length: int) -> Paths:
    """Mostly nothing: demand with a chance of 3 % to 50 % at each step, higher where the rate is, its size geometric or lognormal."""
    rate, token = rates(rng, count, length)
    chance = np.clip(rate * log_uniform(rng, 0.03, 0.5, (count, 1)), 0, 0.95)
    whole = 1 + np.floor(rng.standard_exponential((count, length), np.float32) * log_uniform(rng, 0.3, 10, (count, 1)))
    smooth = np.exp(rng.standard_normal((count, length), np.float32) * rng.uniform(0.1, 0.8, (count, 1)).astype(np.float32)) * log_uniform(rng, 1, 100, (count, 1))
    size = np.where(some(rng, 0.7, count)[:, None], whole, smooth)
    return Paths(np.where(rng.random((count, length)) < chance, size, 0).astype(np.float32), token)
