"""The mix of all priors: block after block of series, each a pure function of (seed, block).

A block is drawn at once, since all priors are vectorised over series; a sample is a row of a block. What is done to the
series of every prior (mixing, changes of sign and rounding, outliers) is here; what makes a window of one is in `windows`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from modalities.time_series.synthetic.counts import counts, intermittent
from modalities.time_series.synthetic.draws import Paths, Rng, log_uniform, normal, some
from modalities.time_series.synthetic.events import anomalies, saw_teeth, sines, spikes, step_pieces
from modalities.time_series.synthetic.forecast_pfn import forecast_pfn
from modalities.time_series.synthetic.kernels import kernel_synth
from modalities.time_series.synthetic.regimes import cycles, regime_switching
from modalities.time_series.synthetic.structural import arima, parts, smoothing
from trainer.errors import ConfigError
from trainer.randomness import key

STREAM = 0x74736D78
"""Keeps the random numbers of blocks apart from all others that a seed stands for."""
PRIORS: dict[str, Callable[[Rng, int, int], Paths]] = {
    "smoothing": smoothing, "arima": arima, "parts": parts, "forecast_pfn": forecast_pfn, "kernel_synth": kernel_synth, "regime_switching": regime_switching,
    "cycles": cycles, "counts": counts, "intermittent": intermittent, "sines": sines, "saw_teeth": saw_teeth, "steps": step_pieces, "anomalies": anomalies, "spikes": spikes,
}  # fmt: skip
"""Name in `Mix` -> (generator, how many, how long) -> series."""


@dataclass(frozen=True)
class Mix:
    """How often each prior is drawn, as weights that need not add up to 1; 0 leaves it out."""

    smoothing: float = 4.0
    """Exponential smoothing: level, damped slope and season that innovations move."""
    arima: float = 3.0
    """SARIMA: persistence, random walks, seasons that wander."""
    parts: float = 4.0
    """Trend, one or two seasons and noise, of very different sizes, each perhaps changing over time."""
    forecast_pfn: float = 2.0
    """Trend, seasons of the calendar and Weibull noise (ForecastPFN)."""
    kernel_synth: float = 2.0
    """Gaussian processes with random kernels (KernelSynth of Chronos)."""
    regime_switching: float = 0.7
    """Ornstein-Uhlenbeck processes with two regimes."""
    cycles: float = 0.8
    """Cycles of uneven length and height."""
    counts: float = 0.6
    """Poisson and negative binomial counts with a moving rate."""
    intermittent: float = 0.4
    """Demand that is mostly zero."""
    sines: float = 0.5
    """Up to three sines on a line."""
    saw_teeth: float = 0.2
    """Ramps."""
    steps: float = 0.3
    """Levels, steps and bursts."""
    anomalies: float = 0.2
    """Spikes at regular times."""
    spikes: float = 0.1
    """A few wide peaks."""
    mixup: float = 0.15
    """Share of all series that are mixed of up to three others (TSMixup), between 0 and 1."""

    def __post_init__(self) -> None:
        weights = self.weights()
        if min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ConfigError(f"The weights of the priors must be at least 0 and one of them above, found {weights}.")
        if not 0 <= self.mixup <= 1:
            raise ConfigError(f"mix.mixup is a share between 0 and 1, found {self.mixup}.")

    def weights(self) -> dict[str, float]:
        """Prior -> its weight."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "mixup"}


@lru_cache(maxsize=4)
def block(mix: Mix, seed: int, number: int, count: int, length: int) -> Paths:
    """Block `number` of a seed: (count, length) series in random order, the same whenever and wherever it is drawn.

    The last few blocks are kept, since the samples of a batch come from one or two of them. Do not write into them.
    """
    rng = np.random.default_rng((STREAM, key(seed, number)))
    weights = mix.weights()
    drawn = rng.multinomial(count, np.array(list(weights.values())) / sum(weights.values()))
    made = [PRIORS[name](rng, int(share), length) for name, share in zip(weights, drawn) if share]
    order = rng.permutation(count)
    values, token = np.concatenate([paths.values for paths in made])[order], np.concatenate([paths.token for paths in made])[order]
    mixed = np.flatnonzero(some(rng, mix.mixup, count))
    values[mixed] = ts_mixup(rng, values, len(mixed))
    token[mixed] = 0
    finish(rng, values)
    values.flags.writeable = token.flags.writeable = False
    return Paths(values, token)


def ts_mixup(rng: Rng, values: np.ndarray, count: int, most: int = 3, alpha: float = 1.5) -> np.ndarray:
    """TSMixup (Chronos, appendix A.1): (count, T) convex sums of one to `most` rows of `values` (n, T), each divided by its mean size.

    The weights are Dirichlet(alpha). All series here have one length, so there is no length to draw.
    """
    weights = rng.standard_gamma(alpha, (count, most)) * (np.arange(most) < rng.integers(1, most + 1, count)[:, None])
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    size = np.maximum(np.abs(values).mean(1, keepdims=True), 1e-6)
    chosen = rng.integers(0, len(values), (count, most))
    return sum(weights[:, k, None] * values[chosen[:, k]] / size[chosen[:, k]] for k in range(most))


def finish(rng: Rng, values: np.ndarray) -> None:
    """What happens to series of all kinds, in place: some are turned upside down, rounded, or get outliers, a break in level or spread."""
    count, length = values.shape
    down = np.flatnonzero(some(rng, 0.1, count))
    values[down] *= -1
    spread = np.maximum(values.std(1, keepdims=True), 1e-6 * np.maximum(np.abs(values).max(1, keepdims=True), 1e-6))
    hit = np.flatnonzero(some(rng, 0.08, count))
    where = rng.random((len(hit), length), np.float32) < log_uniform(rng, 0.002, 0.03, (len(hit), 1))
    values[hit] += where * normal(rng, len(hit), length) * spread[hit] * rng.uniform(2, 6, (len(hit), 1)).astype(np.float32)
    broken = np.flatnonzero(some(rng, 0.04, count))
    after = np.arange(length) > rng.integers(0, length, (len(broken), 1))
    values[broken] += after * normal(rng, len(broken), 1) * spread[broken]
    rounded = np.flatnonzero(some(rng, 0.08, count))
    grain = spread[rounded] * log_uniform(rng, 0.02, 0.5, (len(rounded), 1))
    values[rounded] = np.rint(values[rounded] / grain) * grain
    np.nan_to_num(values, copy=False, nan=0.0, posinf=1e6, neginf=-1e6)
    np.clip(values, -1e6, 1e6, out=values)
