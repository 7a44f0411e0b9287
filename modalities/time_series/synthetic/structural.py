"""Series with a level, a trend and seasons: the processes behind exponential smoothing and ARIMA, and a richer mix of parts.

The first two are recursions over time whose states are vectors over the series. Multiplicative kinds are the exponential of additive ones.
"""

import numpy as np

from modalities.time_series.synthetic.draws import Paths, Rng, autoregressive, frequencies, log_uniform, normal, periods, phases, repeated, shapes, some, standardised

LONGEST = 400
"""Steps in a season that the recursions remember."""
MULTIPLICATIVE = 0.4
"""Share of series that are exponentials."""


def smoothing(rng: Rng, count: int, length: int) -> Paths:
    """Exponential smoothing read forwards: level, damped slope and seasonal states that each take a share of every innovation.

    l_t = l_{t-1} + d b_{t-1} + a e_t, b_t = d b_{t-1} + b e_t, s_t = s_{t-m} + g e_t (Hyndman et al. 2008, "Forecasting with Exponential Smoothing").
    """
    chosen, token = frequencies(rng, count)
    period = np.clip(np.rint(periods(rng, chosen)[0]), 0, LONGEST).astype(np.int64)
    seasonal, lag = period > 1, np.maximum(period, 1)
    alpha = np.where(some(rng, 0.15, count), 0, rng.beta(1.0, 1.6, count)).astype(np.float32)
    sloped = some(rng, 0.6, count)
    beta = np.where(sloped & some(rng, 0.5, count), alpha * log_uniform(rng, 1e-3, 0.2, count), 0).astype(np.float32)
    damping = np.where(some(rng, 0.5, count), 1, rng.uniform(0.8, 0.995, count)).astype(np.float32)
    gamma = np.where(seasonal & some(rng, 0.6, count), (1 - alpha) * log_uniform(rng, 1e-3, 0.4, count), 0).astype(np.float32)
    slope = np.where(sloped, rng.choice((-1, 1), count, p=(0.35, 0.65)) * log_uniform(rng, 1e-3, 0.5, count), 0).astype(np.float32)
    strength = np.where(seasonal, log_uniform(rng, 0.3, 30, count), 0).astype(np.float32)
    first = repeated(shapes(rng, count), np.arange(LONGEST, dtype=np.float32) / lag[:, None].astype(np.float32))
    season = np.ascontiguousarray((first * strength[:, None]).T)  # place t % period of a row is its state
    shocks = np.ascontiguousarray(innovations(rng, count, length).T)
    out, level, rows, place = np.empty((length, count), np.float32), np.zeros(count, np.float32), np.arange(count), rng.integers(0, lag)
    for t in range(length):
        shock, now = shocks[t], season[place, rows]
        slope *= damping
        level += slope
        out[t] = level + now + shock
        level += alpha * shock
        slope += beta * shock
        season[place, rows] = now + gamma * shock
        place += 1
        place[place >= lag] = 0
    return Paths(curved(rng, out.T), token)


def arima(rng: Rng, count: int, length: int) -> Paths:
    """SARIMA (p, d, q)(P, D, Q)_m with p, q <= 2 and P, Q, D <= 1, d <= 2: noise, persistence, random walks, seasons that wander."""
    chosen, token = frequencies(rng, count)
    period = np.clip(np.rint(periods(rng, chosen)[0]), 0, LONGEST).astype(np.int64)
    seasonal = (period > 1) & some(rng, 0.8, count)
    lag, rows = np.where(seasonal, period, 1), np.arange(count)
    # partial autocorrelations inside (-1, 1) make a stationary process
    partial = np.where(some(rng, 0.35, 2 * count), 0, np.clip(rng.normal(0.3, 0.5, 2 * count), -0.95, 0.97)).reshape(2, count).astype(np.float32)
    ar1, ar2 = partial[0] * (1 - partial[1]), partial[1]
    ma = np.where(some(rng, 0.5, count), 0, rng.uniform(-0.9, 0.6, count)).astype(np.float32)
    seasonal_ar = np.where(seasonal & some(rng, 0.5, count), rng.uniform(0, 0.9, count), 0).astype(np.float32)
    integrated = seasonal & some(rng, 0.6, count)
    seasonal_ma = np.where(integrated & some(rng, 0.8, count), rng.uniform(-0.95, -0.2, count), 0).astype(np.float32)
    noise = np.ascontiguousarray(innovations(rng, count, length + LONGEST).T)
    shock = noise + 0.0
    shock[1:] += ma * noise[:-1]
    values = np.zeros((length + LONGEST, count), np.float32)
    walk = np.zeros((length + LONGEST, count), np.float32)
    walk[:LONGEST] = repeated(shapes(rng, count), np.arange(LONGEST, dtype=np.float32) / lag[:, None].astype(np.float32)).T * log_uniform(rng, 0.5, 20, count) * integrated
    for t in range(LONGEST, length + LONGEST):
        before = t - lag
        push = shock[t] + seasonal_ma * shock[before, rows]
        last = values[before, rows] - ar1 * values[before - 1, rows] - ar2 * values[before - 2, rows]
        values[t] = ar1 * values[t - 1] + ar2 * values[t - 2] + seasonal_ar * last + push
        walk[t] = walk[before, rows] + values[t]
    found = np.where(integrated, walk, values)[LONGEST:].T
    drift = np.where(some(rng, 0.3, count), rng.normal(0, 0.2, count), 0)[:, None].astype(np.float32)
    for order in (1, 2):
        again = np.flatnonzero(some(rng, 0.55 if order == 1 else 0.15, count) & ~integrated)
        found[again] = np.cumsum(found[again] + (drift[again] if order == 1 else 0), 1)
    return Paths(curved(rng, found), token)


def parts(rng: Rng, count: int, length: int) -> Paths:
    """A sum of trend, one or two seasons and noise, of very different sizes, where each part may change over time."""
    chosen, token = frequencies(rng, count)
    values = trends(rng, count, length) * np.where(some(rng, 0.8, count), log_uniform(rng, 0.1, 10, count), 0)[:, None]
    for period in periods(rng, chosen):
        rows = np.flatnonzero(period > 1)
        size = log_uniform(rng, 0.2, 5, len(rows))[:, None]
        values[rows] += seasons(rng, period[rows], length) * size
    colour = np.where(some(rng, 0.5, count), 0, rng.uniform(0, 0.95, count)).astype(np.float32)
    noise = standardised(autoregressive(innovations(rng, count, length), colour))
    values += noise * log_uniform(rng, 0.01, 3, count)[:, None]
    return Paths(curved(rng, values), token)


def seasons(rng: Rng, period: np.ndarray, length: int) -> np.ndarray:
    """One season of `period` steps (n,) for each row, (n, length): in part with a changing shape, a changing size or an uneven clock."""
    count = len(period)
    time = phases(rng, period, length, drift=0.08)
    values = repeated(shapes(rng, count), time)
    changing = np.flatnonzero(some(rng, 0.25, count))
    other = repeated(shapes(rng, len(changing)), time[changing])
    share = transition(rng, len(changing), length)
    values[changing] += (other - values[changing]) * share
    sized = np.flatnonzero(some(rng, 0.25, count))
    values[sized] *= 1 + np.clip(smooth_walk(rng, len(sized), length), -1.5, 1.5) * rng.uniform(0.1, 0.6, (len(sized), 1)).astype(np.float32)
    return values


def trends(rng: Rng, count: int, length: int) -> np.ndarray:
    """Trends (count, length) of standard deviation 1: lines, broken lines, growth, saturation, random walks, slow waves."""
    time = np.linspace(0, 1, length, dtype=np.float32)
    kind = rng.choice(6, count, p=(0.22, 0.18, 0.1, 0.1, 0.25, 0.15))
    values = np.empty((count, length), np.float32)
    for number in range(6):
        rows = np.flatnonzero(kind == number)
        shape, sign = (len(rows), 1), rng.choice((-1, 1), (len(rows), 1), p=(0.35, 0.65)).astype(np.float32)
        if number == 0:
            values[rows] = sign * time
        elif number == 1:
            slopes = np.zeros((len(rows), length), np.float32)
            for _ in range(4):
                slopes += normal(rng, *shape) * (time > rng.random(shape))
            values[rows] = np.cumsum(slopes + normal(rng, *shape), 1)
        elif number == 2:
            values[rows] = sign * np.exp(time * rng.uniform(0.5, 4, shape).astype(np.float32))
        elif number == 3:
            values[rows] = sign * transition(rng, len(rows), length)
        elif number == 4:
            values[rows] = np.cumsum(innovations(rng, len(rows), length), 1)
        else:
            values[rows] = smooth_walk(rng, len(rows), length)
    return standardised(values)


def transition(rng: Rng, count: int, length: int) -> np.ndarray:
    """A way from 0 to 1 along a logistic curve (count, length), at any time and of any steepness."""
    time = np.linspace(0, 1, length, dtype=np.float32)
    return (1 / (1 + np.exp(np.clip((rng.random((count, 1)) - time) * log_uniform(rng, 3, 100, (count, 1)), -30, 30)))).astype(np.float32)


def smooth_walk(rng: Rng, count: int, length: int) -> np.ndarray:
    """Slow waves of no period (count, length), standard deviation 1: cosines of one to eight turns with falling size."""
    turns = np.arange(1, 9, dtype=np.float32) / 2
    angles = 2 * np.pi * turns[:, None] * np.linspace(0, 1, length, dtype=np.float32)
    sizes = normal(rng, count, 16) * np.tile(turns**-1.0, 2)
    return standardised(sizes @ np.concatenate([np.cos(angles), np.sin(angles)]))


def innovations(rng: Rng, count: int, length: int) -> np.ndarray:
    """White noise (count, length) of standard deviation near 1: normal, in part with heavy tails, skewed, or with clustered volatility."""
    noise = normal(rng, count, length)
    kind = rng.choice(4, count, p=(0.6, 0.2, 0.08, 0.12))
    heavy = np.flatnonzero(kind == 1)
    freedom = rng.uniform(2.5, 8, (len(heavy), 1))
    noise[heavy] *= np.sqrt((freedom - 2) / rng.chisquare(freedom, (len(heavy), length))).astype(np.float32)
    skewed = np.flatnonzero(kind == 2)
    noise[skewed] = rng.standard_exponential((len(skewed), length), np.float32) - 1
    clustered = np.flatnonzero(kind == 3)
    volatility = autoregressive(normal(rng, len(clustered), length) * np.float32(0.2), rng.uniform(0.9, 0.99, len(clustered)).astype(np.float32))
    noise[clustered] *= np.exp(np.clip(volatility, -3, 3))
    return noise


def curved(rng: Rng, values: np.ndarray) -> np.ndarray:
    """The series as they are, or for a share of them the exponential of what they are at a random size: multiplicative parts, positive values."""
    values = np.ascontiguousarray(values, np.float32)
    rows = np.flatnonzero(some(rng, MULTIPLICATIVE, len(values)))
    values[rows] = np.exp(np.clip(standardised(values[rows]) * log_uniform(rng, 0.03, 0.9, (len(rows), 1)), -6, 6))
    return values
