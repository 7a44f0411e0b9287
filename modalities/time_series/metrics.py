"""How good forecasts are: MASE, weighted quantile loss, MSE, MAE and coverage, over what was observed, and their average over data sets.

Arrays are numpy, NaN is missing; truth and point are (..., H), quantiles (Q, ..., H).
"""

from collections.abc import Mapping, Sequence

import numpy as np

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Quantiles that the weighted quantile loss is a mean over."""


def seasonal_error(history: np.ndarray, season: int) -> float:
    """The scale of MASE: mean |x_t - x_{t - season}| of a history (T,), over pairs that were both observed.

    Where no pair is a season apart, that of neighbours; NaN where there is none at all.
    """
    history = np.asarray(history, np.float64)
    for lag in (season, 1):
        steps = np.abs(history[lag:] - history[:-lag])
        if np.isfinite(steps).any():
            return float(np.nanmean(steps))
    return float("nan")


def absolute_error(truth: np.ndarray, point: np.ndarray) -> float:
    """Mean |truth - point| over what was observed; NaN when nothing was."""
    return _mean(np.abs(truth - point))


def squared_error(truth: np.ndarray, point: np.ndarray) -> float:
    """Mean (truth - point)^2 over what was observed; NaN when nothing was."""
    return _mean((truth - point) ** 2)


def mase(truth: np.ndarray, point: np.ndarray, scale: float) -> float:
    """Mean absolute error over the `seasonal_error` of the history; NaN for a history without any change."""
    return absolute_error(truth, point) / scale if scale > 0 else float("nan")


def quantile_loss(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float] = LEVELS) -> float:
    """2 * the pinball loss, the mean over levels of the sum over what was observed."""
    level = np.asarray(levels).reshape(-1, *[1] * truth.ndim)
    error = truth - quantiles
    return 2 * float(np.nansum(np.maximum(level * error, (level - 1) * error))) / len(levels)


def weight(truth: np.ndarray) -> float:
    """What a weighted quantile loss is divided by: the sum of |truth|."""
    return float(np.nansum(np.abs(truth)))


def weighted_quantile_loss(truth: np.ndarray, quantiles: np.ndarray, levels: Sequence[float] = LEVELS) -> float:
    """WQL of one or more series: the quantile loss over the sum of |truth|; an approximation of the CRPS. NaN when the truth is 0."""
    total = weight(truth)
    return quantile_loss(truth, quantiles, levels) / total if total > 0 else float("nan")


def coverage(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Share of what was observed that lies between two quantiles, both included; NaN when nothing was observed."""
    seen = np.isfinite(truth)
    return float(((truth >= low) & (truth <= high))[seen].mean()) if seen.any() else float("nan")


def geometric_mean(ratios: Sequence[float]) -> float:
    """Of the finite ones above 0; NaN when there is none. Ratios are averaged like this, never the scores themselves."""
    found = np.array([ratio for ratio in ratios if np.isfinite(ratio) and ratio > 0])
    return float(np.exp(np.log(found).mean())) if len(found) else float("nan")


def ratios(scores: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Metric -> score over that of the baseline; NaN where it is not known or the baseline is perfect."""
    return {name: value / baseline[name] if baseline.get(name, 0) > 0 else float("nan") for name, value in scores.items()}


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
