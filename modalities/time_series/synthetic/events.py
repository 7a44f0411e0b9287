"""Series made of events: sines, saw-teeth, steps, spikes, anomalies (ranges as TempoPFN, Apache-2.0, documents them)."""

import numpy as np

from modalities.time_series.synthetic.draws import Paths, Rng, log_uniform, normal, some

STEPS = np.array((0.8, 0.6, 0.6, 0.4, 0.4, 0.3, 0.2))
"""How often a piece of a step series is: stable, up, down, a spike up, a spike down, oscillating, a random walk."""
PIECES = 12
"""Pieces of a step series, at most."""


def sines(rng: Rng, count: int, length: int) -> Paths:
    """One to three sines on a line, their size and frequency a little modulated, mostly with noise."""
    steps, shape = np.arange(length, dtype=np.float32), (count, 1)
    values = rng.uniform(-0.01, 0.01, shape).astype(np.float32) * steps + rng.uniform(0, 2, shape).astype(np.float32)
    for part in range(3):
        period = log_uniform(rng, 4, 200, shape)
        wobble = rng.uniform(0, 0.05, shape) * np.sin(2 * np.pi * (steps / (period * rng.uniform(5, 20, shape)) + rng.random(shape)))
        swell = 1 + rng.uniform(0, 0.1, shape) * np.sin(2 * np.pi * (steps / (period * rng.uniform(5, 20, shape)) + rng.random(shape)))
        wave = rng.uniform(0.5, 3, shape) * swell * np.sin(2 * np.pi * (steps / period * (1 + wobble) + rng.random(shape)))
        values += np.where(some(rng, (1, 0.66, 0.33)[part], count)[:, None], wave, 0).astype(np.float32)
    return Paths.untimed(values + _noise(rng, values, 0.7, 0.05, 0.2))


def saw_teeth(rng: Rng, count: int, length: int) -> Paths:
    """Two to sixty ramps, up or down, on a faint line."""
    time, shape = np.linspace(0, 1, length, dtype=np.float32), (count, 1)
    ramp = (time * log_uniform(rng, 2, 60, shape) + rng.random(shape)) % 1
    ramp = np.where(some(rng, 0.5, count)[:, None], ramp, 1 - ramp) * rng.uniform(0.5, 3, shape)
    values = ramp + rng.uniform(-0.001, 0.001, shape) * length * time + 0.02 * np.sin(2 * np.pi * (time * rng.uniform(2, 50, shape)))
    return Paths.untimed(values + _noise(rng, values, 0.5, 0.01, 0.1))


def step_pieces(rng: Rng, count: int, length: int) -> Paths:
    """Pieces one after another, each at its level: stable, climbing or falling, with a spike that fades, oscillating or a random walk."""
    kind = rng.choice(len(STEPS), (count, PIECES), p=STEPS / STEPS.sum())
    cuts = np.sort(rng.random((count, PIECES - 1)), 1)[:, :, None] < np.linspace(0, 1, length, dtype=np.float32)
    piece = cuts.sum(1)  # the number of the piece at each time
    begins = np.concatenate([np.zeros((count, 1), np.int64), (~cuts).sum(2)], 1)
    since = np.arange(length) - np.take_along_axis(begins, piece, 1)
    size = rng.uniform(0, 10, (count, PIECES)) * np.choose(kind, (0, 1, -1, 0, 0, 0, 0))
    level = np.take_along_axis(np.cumsum(size, 1), piece, 1) + rng.uniform(5, 15, (count, 1))
    kind, burst = np.take_along_axis(kind, piece, 1), np.take_along_axis(rng.uniform(1, 10, (count, PIECES)), piece, 1)
    fading = burst * 0.7**since
    extra = np.choose(kind, (0.0, 0.0, 0.0, fading, -fading, burst / 3 * np.sin(since * rng.uniform(0.2, 1.5, (count, 1))), 0.0))
    walk = np.cumsum(np.where(kind == 6, normal(rng, count, length) * 0.3, 0), 1)
    values = (level + extra + walk + normal(rng, count, length) * log_uniform(rng, 1e-3, 0.3, (count, 1))) * log_uniform(rng, 0.1, 10, (count, 1))
    return Paths.untimed(values)


def anomalies(rng: Rng, count: int, length: int) -> Paths:
    """A level with spikes of one sign every so many steps, alike in size, in part clustered or with more of them at random."""
    every, shape = log_uniform(rng, 8, 300, (count, 1)), (count, 1)
    jitter = rng.uniform(0, 0.2, shape)
    phase = np.arange(length) / every + rng.random(shape)
    number = np.floor(phase).astype(np.int64)
    number -= number[:, :1]
    place = rng.random((count, number.max() + 1)) * jitter
    first = (phase % 1 >= np.take_along_axis(place, number, 1)) & (phase % 1 - 1 / every < np.take_along_axis(place, number, 1))
    sizes = rng.uniform(10, 50, shape) * (0.7 + 0.3 * rng.random((count, number.max() + 1)))
    spikes = np.where(first, np.take_along_axis(sizes, number, 1), 0.0)
    more = (some(rng, 0.25, count)[:, None] * 0.01 > rng.random((count, length))) * rng.uniform(10, 50, (count, length))
    clustered = some(rng, 0.25, count)[:, None] * (np.roll(spikes, 1, 1) * 0.7 + np.roll(spikes, 2, 1) * 0.5)
    values = (spikes + more + clustered) * rng.choice((-1, 1), shape) + rng.uniform(-100, 100, shape) + normal(rng, count, length) * log_uniform(rng, 0.1, 5, shape)
    return Paths.untimed(values)


def spikes(rng: Rng, count: int, length: int) -> Paths:
    """Four to seven peaks of 30 to 100 steps, in part with a flat top, on a level with noise."""
    steps, shape = np.arange(length), (count, 1)
    values = rng.uniform(-200, 200, shape) + 2 * normal(rng, count, length)
    width, height = rng.uniform(15, 50, shape), rng.uniform(50, 300, shape) * rng.choice((-1, 1), shape)
    top = np.where(some(rng, 0.5, count)[:, None], 1.0, rng.uniform(0.4, 0.9, shape))
    for peak in range(7):
        peaks = np.minimum(np.maximum(1 - np.abs(steps - rng.uniform(0, length, shape)) / width, 0), top)
        values += np.where(some(rng, 1.0 if peak < 4 else 0.5, count)[:, None], peaks * height, 0)
    return Paths.untimed(values)


def _noise(rng: Rng, values: np.ndarray, share: float, low: float, high: float) -> np.ndarray:
    """Normal noise of `low` to `high` standard deviations for a share of the rows."""
    size = np.where(some(rng, share, len(values)), rng.uniform(low, high, len(values)), 0)[:, None] * values.std(1, keepdims=True)
    return (normal(rng, *values.shape) * size).astype(np.float32)
