"""The long-horizon protocol (ETT, Weather, Electricity, Traffic): `python -m modalities.time_series.long_horizon NAME --data ETTh1.csv`.

Training, validation and test are blocks of time. Each channel is standardised by mean and deviation of the training block; the test is every
window whose future lies in the test block, at a stride of one step, all of them; scores are MSE and MAE of standardised values. The history of the first
window lies before the test block, so that its first step is forecast, too.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from numpy.lib.stride_tricks import sliding_window_view

from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.run import command
from modalities.time_series.baselines import seasonal_naive
from modalities.time_series.frequency import seasonality, token
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.series import Item
from modalities.time_series.sets import open_sets
from trainer.errors import ConfigError, DataError, ModelError
from trainer.files import write_json

Kind = Literal["ett_hourly", "ett_minutes", "shares"]
MONTH = 30 * 24
"""Hours of a month of ETT."""
BLOCKS = {"ett_hourly": (12 * MONTH, 4 * MONTH, 4 * MONTH), "ett_minutes": (48 * MONTH, 16 * MONTH, 16 * MONTH)}
"""Steps of training, validation and test; what follows is not used."""
TRAIN, TEST = 0.7, 0.2
"""Shares of the other sets; validation is what is left between."""
ROWS = 512
"""Channels of windows that are forecast at once."""


@dataclass(frozen=True)
class Scores:
    """Errors of standardised values."""

    horizon: int
    """Steps ahead."""
    windows: int
    """Windows of the test."""
    mse: float
    """Mean squared error of the model."""
    mae: float
    """Mean absolute error."""
    naive_mse: float
    """Of the seasonal naive forecast."""
    naive_mae: float
    """Of the seasonal naive forecast."""


def borders(length: int, kind: Kind) -> tuple[int, int, int]:
    """Where training, validation and test end. DataError for a series that is too short for its kind."""
    if kind == "shares":
        train, test = int(TRAIN * length), int(TEST * length)
        return train, length - test, length
    ends = tuple(np.cumsum(BLOCKS[kind]).tolist())
    if length < ends[-1]:
        raise DataError(f"The blocks of {kind} take {ends[-1]:,} steps, and the series has {length:,}. Use --blocks shares.")
    return ends


def kind_of(path: str) -> Kind:
    """The blocks that are usual for a file of this name."""
    name = Path(path).stem.lower()
    return "ett_hourly" if name.startswith("etth") else "ett_minutes" if name.startswith("ettm") else "shares"


def standardised(values: np.ndarray, train: int) -> np.ndarray:
    """(C, T) by mean and deviation of the first `train` steps of each channel; a constant channel is only centred."""
    mean, deviation = np.nanmean(values[:, :train], 1, keepdims=True), np.nanstd(values[:, :train], 1, keepdims=True)
    return (values - mean) / np.where(deviation > 0, deviation, 1.0)


def windows_of_test(scaled: np.ndarray, ends: tuple[int, int, int], context: int, horizon: int, rows: int = ROWS) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(histories (B, C, context), futures (B, C, horizon)) of all windows of the test block, views of the series, a few at a time. DataError when there is none."""
    begin, end = ends[1] - context, ends[2]
    if end - ends[1] < horizon or begin < 0:
        raise DataError(f"A test block of {end - ends[1]} steps after {ends[1]} has no window of {context} + {horizon} steps. Choose a shorter --context or --horizons.")
    windows = sliding_window_view(scaled[:, begin:end], context + horizon, axis=1).swapaxes(0, 1)  # (windows, C, context + horizon)
    size = max(1, rows // len(scaled))
    for first in range(0, len(windows), size):
        chunk = windows[first : first + size]
        yield chunk[..., :context], chunk[..., context:]


def evaluate_long(model: Forecaster, item: Item, horizon: int, kind: Kind, context: int | None = None) -> Scores:
    """A model on one series of several channels. `context`: steps of history; by default what the model reads."""
    model.eval()
    ends, context = borders(item.length, kind), context or model.context_length
    scaled, season = standardised(item.values.astype(np.float64), ends[0]), seasonality(item.frequency)
    sums, seen, windows = np.zeros(4), 0, 0
    for past, future in windows_of_test(scaled, ends, context, horizon):
        series = torch.from_numpy(np.ascontiguousarray(past, np.float32)).to(model.device)
        batch = {"series": series.nan_to_num(0.0), "observed": ~series.isnan(), "frequency": torch.full((len(series),), token(item.frequency), device=model.device)}
        known = np.isfinite(future)
        for place, said in enumerate((model.forecast(batch, horizon).point.cpu().numpy(), _naive(past, horizon, season))):
            error = np.where(known, said - future, 0.0)
            sums[2 * place : 2 * place + 2] += np.square(error).sum(), np.abs(error).sum()
        seen, windows = seen + int(known.sum()), windows + len(past)
    mse, mae, naive_mse, naive_mae = (sums / max(seen, 1)).tolist()
    return Scores(horizon, windows, mse, mae, naive_mse, naive_mae)


def _naive(past: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Seasonal naive of (B, C, T); 0, the mean of training, where nothing was observed."""
    filled = np.where(np.isfinite(past).any(-1, keepdims=True), past, 0.0)
    return seasonal_naive(filled, horizon, season)


def main(
    name: tyro.conf.Positional[str], /, data: str, horizons: tuple[int, ...] = (96, 192, 336, 720), context: int | None = None, blocks: Kind | None = None, to: Path | None = None
) -> None:
    """Measure a forecasting model by the long-horizon protocol.

    Args:
        name: Folder or name of the model.
        data: A wide table: a time, and a column per channel.
        horizons: Steps ahead.
        context: Steps of history. Default: what the model reads.
        blocks: Where training, validation and test end. Default: those of ETT for files called so, else 70, 10 and 20 %.
        to: JSON file to write the scores to.
    """
    if not horizons or min(horizons) < 1 or (context is not None and context < 1):
        raise ConfigError(f"horizons and context are at least 1, found {list(horizons)} and {context}.")
    model = pretrained.load(name)
    if not isinstance(model, Forecaster):
        raise ModelError(f"{name} is a {type(model).__name__}, which does not forecast.")
    items = [item for data_set in open_sets(data) for item in data_set.items]
    if len(items) != 1:
        raise DataError(f"The long-horizon protocol is for one series of several channels, and {data} holds {len(items)}.")
    found = [evaluate_long(model, items[0], horizon, blocks or kind_of(data), context) for horizon in horizons]
    print(f"{'ahead':>6}{'windows':>9}{'MSE':>9}{'MAE':>9}{'naive MSE':>11}{'naive MAE':>11}")
    for scores in found:
        print(f"{scores.horizon:>6}{scores.windows:>9}{scores.mse:>9.3f}{scores.mae:>9.3f}{scores.naive_mse:>11.3f}{scores.naive_mae:>11.3f}")
    print(f"{'mean':>6}{'':>9}{_mean(found, 'mse'):>9.3f}{_mean(found, 'mae'):>9.3f}{_mean(found, 'naive_mse'):>11.3f}{_mean(found, 'naive_mae'):>11.3f}")
    if to is not None:
        write_json(to, {"command": command(), "scores": [vars(scores) for scores in found]})


def _mean(found: Sequence[Scores], name: str) -> float:
    return float(np.mean([getattr(scores, name) for scores in found]))


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(main, prog="python -m modalities.time_series.long_horizon")))
