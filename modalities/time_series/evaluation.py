"""Forecasts of a model on the end of real series, against baselines: `python -m modalities.time_series.evaluation NAME --data FOLDER`.

The protocol is that of GIFT-Eval: the last windows of each series, one after another, each forecast from everything before it; scores per data
set, as ratios to seasonal naive, and their geometric mean over data sets. A data set is a file (or what comes with a library).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.time_series import metrics
from modalities.time_series.baselines import Baseline, baseline
from modalities.time_series.frequency import token
from modalities.time_series.metrics import LEVELS
from modalities.time_series.models.forecaster import Forecast, Forecaster
from modalities.time_series.real import NAME
from modalities.time_series.scoreboard import REFERENCE, SetScores, as_json, mean, table
from modalities.time_series.series import Item, SeriesSet
from modalities.time_series.sets import open_sets
from trainer.errors import ConfigError, DataError, ModelError
from trainer.files import write_json

SHARE, MOST_WINDOWS = 0.1, 20
"""Windows take up to this share of the shortest series of a set, and at most so many (GIFT-Eval)."""
BATCH = 256
"""Channels that are forecast at once."""

Predict = Callable[[list[Item], list[int], int], list[np.ndarray]]
"""(items, the end of the history of each, horizon) -> quantiles (9, C, H) of each."""


@dataclass(frozen=True)
class Protocol:
    """What is forecast."""

    horizon: int | None = None
    """Steps ahead. Null: that of the data set, else what is usual for its frequency."""
    windows: int | None = None
    """Windows at the end of each series, one after another. Null: a tenth of the shortest series, at most 20."""
    shortest: int = 8
    """Steps of history that a series must have before its first window; shorter ones are left out and counted."""

    def __post_init__(self) -> None:
        for name in ("horizon", "windows", "shortest"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")


def evaluate_set(data: SeriesSet, forecasters: dict[str, Predict], protocol: Protocol = Protocol()) -> SetScores:
    """Every forecaster on one data set. DataError when no series is long enough."""
    horizon = protocol.horizon or data.steps_ahead
    longest = [item for item in data.items if item.length >= horizon + protocol.shortest]
    windows = protocol.windows or min(max(1, int(np.ceil(SHARE * min((i.length for i in longest), default=0) / horizon))), MOST_WINDOWS)
    kept = [item for item in longest if item.length >= windows * horizon + protocol.shortest]
    places = [(item, item.length - (windows - w) * horizon) for item in kept for w in range(windows)]
    usable = {id(item): [c for c in range(len(item.values)) if np.isfinite(item.values[c, : item.length - windows * horizon]).any()] for item in kept}
    found = SetScores(data.name, data.frequency, data.season, horizon, windows, sum(map(len, usable.values())), 0)
    found.left_out = sum(len(item.values) for item in data.items) - found.series
    if not found.series:
        raise DataError(f"No series of {data.name} is long enough to forecast {horizon} steps after at least {protocol.shortest} of history. Choose a smaller --horizon.")
    places = [(item, end) for item, end in places if usable[id(item)]]
    names = {REFERENCE: from_baseline(baseline(REFERENCE), data.season), **forecasters}
    said = {name: predict([item for item, _ in places], [end for _, end in places], horizon) for name, predict in names.items()}
    records: dict[tuple[int, int], dict[str, list[dict[str, float]]]] = {}
    for number, (item, end) in enumerate(places):
        for channel in usable[id(item)]:
            truth, scale = item.values[channel, end : end + horizon], metrics.seasonal_error(item.values[channel, :end], data.season)
            if np.isfinite(truth).any():
                record = records.setdefault((id(item), channel), {name: [] for name in said})
                for name in said:
                    record[name].append(_scores(truth, said[name][number][:, channel], scale))
    named = {id(item): item for item in kept}
    for (place, channel), record in records.items():
        item = named[place]
        found.each.append({"name": item.channel_name(channel), "length": item.length, **{name: _together(rows) for name, rows in record.items()}})
    found.scores = {name: _together([row for record in records.values() for row in record[name]]) for name in said}
    return found


def _scores(truth: np.ndarray, quantiles: np.ndarray, scale: float) -> dict[str, float]:
    """Of one window of one channel; `loss` and `weight` are the two parts of WQL, `steps` how many were observed."""
    median = quantiles[len(LEVELS) // 2]
    return {
        "MASE": metrics.mase(truth, median, scale), "MAE": metrics.absolute_error(truth, median), "MSE": metrics.squared_error(truth, median),
        "coverage": metrics.coverage(truth, quantiles[0], quantiles[-1]), "loss": metrics.quantile_loss(truth, quantiles), "weight": metrics.weight(truth),
    }  # fmt: skip


def _together(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over windows, but for WQL, which is a ratio of sums."""
    means = {name: mean([row[name] for row in rows]) for name in ("MASE", "MAE", "MSE", "coverage")}
    total = sum(row["weight"] for row in rows)
    return {**means, "WQL": sum(row["loss"] for row in rows) / total if total > 0 else float("nan")}


def from_baseline(forecast: Baseline, season: int) -> Predict:
    """A baseline for whole items, a channel at a time. What was never observed is forecast as NaN."""

    def predict(items: list[Item], ends: list[int], horizon: int) -> list[np.ndarray]:
        blank = np.full((len(LEVELS), horizon), np.nan)
        return [
            np.stack([forecast(channel, horizon, season) if np.isfinite(channel).any() else blank for channel in item.values[:, :end].astype(np.float64)], 1)
            for item, end in zip(items, ends)
        ]

    return predict


def from_model(model: Forecaster) -> Predict:
    """A model for whole items: several at once where they have as many channels, each from the newest `context_length` steps."""

    def predict(items: list[Item], ends: list[int], horizon: int) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.empty(0)] * len(items)
        by_channels: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            by_channels.setdefault(len(item.values), []).append(place)
        for channels, places in by_channels.items():
            size = max(1, BATCH // channels)
            for chunk in (places[i : i + size] for i in range(0, len(places), size)):
                said = nine_quantiles(model.forecast(_batch(model, [items[i] for i in chunk], [ends[i] for i in chunk]), horizon))
                for row, place in enumerate(chunk):
                    found[place] = said[:, row]
        return found

    return predict


def _batch(model: Forecaster, items: list[Item], ends: list[int]) -> dict[str, torch.Tensor]:
    """Histories (B, C, T) of equal length, missing values before the shorter ones, on the model's device."""
    length = min(model.context_length, max(ends))
    values = np.full((len(items), len(items[0].values), length), np.nan)
    for row, (item, end) in enumerate(zip(items, ends)):
        history = item.values[:, max(0, end - length) : end]
        values[row, :, length - history.shape[1] :] = history
    series = torch.from_numpy(values).float()
    observed = ~series.isnan()
    frequency = torch.tensor([token(item.frequency) for item in items])
    return {key: value.to(model.device) for key, value in {"series": series.nan_to_num(0.0), "observed": observed, "frequency": frequency}.items()}


def nine_quantiles(said: Forecast) -> np.ndarray:
    """(9, B, C, H) of metrics.LEVELS: interpolated between the model's, or all of them the point where it has none."""
    if said.quantiles is None:
        return np.repeat(said.point.cpu().numpy()[None], len(LEVELS), 0).astype(np.float64)
    if len(said.levels) == len(LEVELS) and np.allclose(said.levels, LEVELS):
        return said.quantiles.transpose(0, 1).cpu().numpy().astype(np.float64)
    return np.stack([said.quantile(level).cpu().numpy() for level in LEVELS]).astype(np.float64)


def evaluate(model: Forecaster, sets: Sequence[SeriesSet], names: Sequence[str] = (), protocol: Protocol = Protocol(), label: str = "model") -> list[SetScores]:
    """The model, seasonal naive and the baselines in `names` on each data set."""
    model.eval()
    results = []
    for data in sets:
        others = {name: from_baseline(baseline(name), data.season) for name in names if name != REFERENCE}
        results.append(evaluate_set(data, {label: from_model(model), **others}, protocol))
    return results


def main(
    name: tyro.conf.Positional[str], /, data: str = NAME, horizon: int | None = None, windows: int | None = None, baselines: tuple[str, ...] = (), to: Path | None = None
) -> None:
    """Measure a forecasting model on series that it has not seen, and compare it with seasonal naive.

    Args:
        name: Folder or name of the model.
        data: File or folder of series (a file is a data set), or "statsmodels" for the built-in ones.
        horizon: Steps ahead. Default: what is usual for the frequency.
        windows: Windows at the end of each series. Default: a tenth of the shortest one, at most 20.
        baselines: Others to measure: naive_intervals, ets, theta.
        to: JSON file to write all scores to.
    """
    for other in baselines:
        baseline(other)
    model = pretrained.load(name)
    if not isinstance(model, Forecaster):
        raise ModelError(f"{name} is a {type(model).__name__}, which does not forecast.")
    results = evaluate(model, open_sets(data), baselines, Protocol(horizon, windows), label=Path(name).name)
    print(table(results))
    if to is not None:
        write_json(to, as_json(results))


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(main, prog="python -m modalities.time_series.evaluation")))
