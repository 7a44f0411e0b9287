"""Forecasts of the series in files, as a table and a picture: what `zoo predict NAME my.csv --horizon 48` writes."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalities.time_series.formats import open_path
from modalities.time_series.models.forecaster import Forecast, Forecaster, require_horizon
from modalities.time_series.series import Item
from modalities.time_series.timeline import continued
from trainer.errors import ModelError
from trainer.files import write_text

DRAWN = 8
"""Channels in the picture."""
COVARIATES = ("past_covariates", "future_covariates")


@dataclass(frozen=True)
class Forecasted:
    """A series and what a model says of its future."""

    item: Item
    """The series."""
    said: Forecast
    """The forecast, of one sample."""
    times: np.ndarray
    """(H,): datetime64, or the numbers of the steps after the series, from 1, where it has no times."""


def forecast_files(model: Forecaster, files: Sequence[Path], to: Path | None = None, horizon: int | None = None) -> str:
    """Forecast every series of some files; write a CSV and, beside it, a PNG; returns what was done, in words.

    `to` names the CSV or the PNG (the other lies beside it); without it they are forecast.csv and forecast.png. `horizon`: steps ahead; without it
    what is usual for the sampling interval. Covariates are given to a model that reads them. DataError names file, row and column of what is wrong.
    """
    if not isinstance(model, Forecaster) or model.preprocess is None:
        raise ModelError(f"A {type(model).__name__} {'without preprocessor_config.json ' if model.preprocess is None else ''}forecasts no files. Load a forecasting model.")
    if horizon is not None:
        require_horizon(horizon)
    table, picture = (to or Path("forecast.csv")).with_suffix(".csv"), (to or Path("forecast.png")).with_suffix(".png")
    found = [forecast_item(model, item, data.steps_ahead if horizon is None else horizon) for file in files for data in open_path(file) for item in data.items]
    write_text(table, as_csv(found))
    channels = sum(len(one.item.values) for one in found)
    draw(found, picture, ", ".join(file.name for file in files[:3]))
    left = sorted({key for one in found for key in COVARIATES if getattr(one.item, key) is not None and not model.reads(key)})
    note = f" {' and '.join(left)} were left out: this model reads none." if left else ""
    return f"{len(found)} series with {channels} channel(s) forecast {len(found[0].times)} steps ahead: {table}, {picture}{note}"


def forecast_item(model: Forecaster, item: Item, horizon: int) -> Forecasted:
    """The forecast of one series."""
    raw: dict[str, Any] = {"series": item.values, "frequency": item.frequency}
    raw |= {key: getattr(item, key) for key in COVARIATES if model.reads(key) and getattr(item, key) is not None}
    batch = {key: value.to(model.device) for key, value in model.preprocess(raw).items()}
    times = continued(item.times, item.frequency, horizon) if item.times is not None else np.arange(1, horizon + 1)
    return Forecasted(item, model.forecast(batch, horizon), times)


def as_csv(found: Sequence[Forecasted]) -> str:
    """A row for each step of each channel: series, channel, time, forecast, and a column for each quantile."""
    levels = found[0].said.levels
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["series", "channel", "time", "forecast", *(f"q{level:g}" for level in levels)])
    for one in found:
        times = [_written(time) for time in one.times]
        for channel in range(len(one.item.values)):
            name = one.item.channels[channel] if one.item.channels else channel
            columns = [one.said.point[0, channel].tolist(), *(one.said.quantiles[0, q, channel].tolist() for q in range(len(levels)))]
            out.writerows([one.item.name, name, time, *(f"{value:.7g}" for value in row)] for time, *row in zip(times, *columns))
    return text.getvalue()


def draw(found: Sequence[Forecasted], path: Path, title: str) -> Path:
    """The first channels of all series as one picture."""
    from modalities.time_series.pictures import Panel, draw_forecasts  # matplotlib takes a while

    panels = []
    for one in found:
        item, said = one.item, one.said
        times = None if item.times is None else np.concatenate([item.times.astype(one.times.dtype), one.times])
        for channel in range(min(len(item.values), DRAWN - len(panels))):
            quantiles = None if said.quantiles is None else said.quantiles[0, :, channel].numpy(force=True)
            panels.append(Panel(item.channel_name(channel), item.values[channel], said.point[0, channel].numpy(force=True), quantiles, said.levels, times=times))
    return draw_forecasts(panels, path, title)


def _written(time: Any) -> str:
    """A time as people write it: without what is midnight, without fractions of a second that are none."""
    if not isinstance(time, np.datetime64):
        return str(time)
    day = time.astype("datetime64[D]")
    return str(day) if day == time else str(time.astype("datetime64[s]") if time.astype("datetime64[s]") == time else time).replace("T", " ")
