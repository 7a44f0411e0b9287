"""What forecasts are compared with: seasonal naive, and exponential smoothing and Theta as statsmodels fits them.

A baseline is a function of (history (T,) with NaN for missing values, horizon, season) that gives quantiles (9, H) of `metrics.LEVELS`.
"""

import logging
import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

from modalities.time_series.metrics import LEVELS
from trainer.errors import DataError, UnknownNameError, did_you_mean
from trainer.optional import library

log = logging.getLogger("zoo")

Baseline = Callable[[np.ndarray, int, int], np.ndarray]
NORMAL = norm.ppf(LEVELS)[:, None]
"""Quantiles of the standard normal distribution."""
RECENT = 1000
"""Of a longer history so many steps are fitted: time grows with the length, and little is gained."""
PATHS = 500
"""Futures that are simulated for intervals."""
LONGEST_SEASON = 48
"""Exponential smoothing has a state for each step of a season; longer ones are fitted without it."""


def seasonal_naive(history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """The last season again and again, (..., H) of (..., T): for each phase the last value that was observed, of any season.

    Where a phase was never observed, the last value of all. DataError when there is none.
    """
    history = np.asarray(history, np.float64)
    last = filled_forward(history)[..., -1:]
    if not np.isfinite(last).all():
        raise DataError("A series without a single observed value in its history cannot be forecast. Leave it out.")
    season = max(1, min(season, history.shape[-1]))
    lacking = -history.shape[-1] % season
    padded = np.concatenate([np.full((*history.shape[:-1], lacking), np.nan), history], -1)
    seasons = padded.reshape(*history.shape[:-1], -1, season)
    newest = filled_forward(np.moveaxis(seasons, -2, -1))[..., -1]  # of each phase
    newest = np.where(np.isfinite(newest), newest, last)
    return np.take(newest, np.arange(horizon) % season, -1)


def filled_forward(values: np.ndarray) -> np.ndarray:
    """Missing values along the last axis replaced by the one before them; those at the beginning stay NaN."""
    place = np.where(np.isfinite(values), np.arange(values.shape[-1]), 0)
    return np.take_along_axis(values, np.maximum.accumulate(place, -1), -1)


def filled(history: np.ndarray) -> np.ndarray:
    """A history (T,) without gaps: linear between observed values, and without what is missing at its ends."""
    seen = np.flatnonzero(np.isfinite(history))
    if not len(seen):
        raise DataError("A series without a single observed value in its history cannot be forecast. Leave it out.")
    return np.interp(np.arange(seen[0], len(history)), seen, history[seen])


def naive_quantiles(history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Seasonal naive as a distribution of one value: all quantiles are the point, as in GluonTS."""
    return np.repeat(seasonal_naive(history, horizon, season)[None], len(LEVELS), 0)


def naive_intervals(history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Seasonal naive with normal intervals from its errors in the history, wider with each season ahead (Hyndman and Athanasopoulos, section 5.5)."""
    values = filled(history)
    season = max(1, min(season, len(values) - 1))
    spread = np.sqrt(np.mean((values[season:] - values[:-season]) ** 2)) if len(values) > 1 else 0.0
    return seasonal_naive(history, horizon, season) + NORMAL * spread * np.sqrt(np.arange(horizon) // season + 1)


def auto_ets(history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """The best of the additive and multiplicative exponential smoothing models by corrected AIC (statsmodels), with its own intervals.

    Multiplicative ones only for positive series. Falls back to seasonal naive where none can be fitted, which the log says.
    """
    models = library("statsmodels.tsa.exponential_smoothing.ets", "AutoETS")
    values = filled(history)[-RECENT:]
    positive, seasonal = bool((values > 0).all()), 1 < season <= LONGEST_SEASON and len(values) >= 2 * season + 5
    best, criterion = None, np.inf
    for error in ("add", "mul") if positive else ("add",):
        for trend, damped in ((None, False), ("add", False), ("add", True)):
            for kind in (None, "add", "mul") if seasonal and error == "mul" else (None, "add") if seasonal else (None,):
                fitted = _fitted(models.ETSModel, values, error=error, trend=trend, damped_trend=damped, seasonal=kind, seasonal_periods=season if kind else None)
                if fitted is not None and np.isfinite(fitted.aicc) and fitted.aicc < criterion:
                    best, criterion = fitted, fitted.aicc
    quantiles = None if best is None else _intervals(best, horizon)
    return _or_naive(quantiles, history, horizon, season, "AutoETS")


def auto_theta(history: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """The Theta method (Assimakopoulos and Nikolopoulos 2000) as statsmodels has it: it tests for a season and takes it out, multiplicative for positive series."""
    theta = library("statsmodels.tsa.forecasting.theta", "AutoTheta")
    values = filled(history)[-RECENT:]
    seasonal = 1 < season and len(values) >= 2 * season + 1
    quantiles = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = theta.ThetaModel(values, period=season if seasonal else 1, deseasonalize=seasonal, method="auto").fit()
            middle = np.asarray(fitted.forecast(horizon))
            half = np.asarray(fitted.prediction_intervals(horizon, alpha=2 * norm.sf(1)))[:, 1] - middle  # one standard deviation
            quantiles = middle + NORMAL * half
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, IndexError) as error:
        log.debug("Theta: %s", error)
    return _or_naive(quantiles, history, horizon, season, "AutoTheta")


BASELINES: dict[str, Baseline] = {"seasonal_naive": naive_quantiles, "naive_intervals": naive_intervals, "ets": auto_ets, "theta": auto_theta}
"""Name -> baseline."""


def baseline(name: str) -> Baseline:
    """A baseline by name; UnknownNameError with the nearest."""
    if name not in BASELINES:
        raise UnknownNameError(f"{name!r} is no baseline.{did_you_mean(name, BASELINES)} Known: {', '.join(BASELINES)}.")
    return BASELINES[name]


def _fitted(model: type, values: np.ndarray, **kind: object) -> object | None:
    """A fitted model, or None where its optimiser finds nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model(values, **kind).fit(disp=False, maxiter=200)
    except (ValueError, ArithmeticError, np.linalg.LinAlgError, IndexError) as error:
        log.debug("Exponential smoothing %s: %s", kind, error)
        return None


def _intervals(fitted: object, horizon: int) -> np.ndarray:
    """Quantiles (9, H) of a fitted model, from simulated futures around its forecast: only some of the models have a formula."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = np.random.default_rng(0).standard_normal((horizon, PATHS)) * np.sqrt(fitted.scale)
        futures = np.asarray(fitted.simulate(horizon, anchor="end", repetitions=PATHS, random_errors=errors)).reshape(horizon, PATHS)
        quantiles = np.quantile(futures, LEVELS, axis=1)
        return quantiles + np.asarray(fitted.forecast(horizon)) - quantiles[len(LEVELS) // 2]


def _or_naive(quantiles: np.ndarray | None, history: np.ndarray, horizon: int, season: int, name: str) -> np.ndarray:
    if quantiles is not None and np.isfinite(quantiles).all():
        return quantiles
    log.warning("%s could not be fitted to a series of %d steps; seasonal naive stands in its place.", name, len(history))
    return naive_intervals(history, horizon, season)
