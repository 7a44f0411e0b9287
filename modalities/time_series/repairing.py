"""What a forecasting model says of the past: which points are unusual, and what stood in the gaps."""

import torch
from torch import Tensor

from modalities.time_series.models.forecaster import Forecaster, require_series
from trainer.errors import ConfigError
from trainer.objective import Batch

LEAST = 16
"""Points of history before anything is said."""
NARROW = 1e-6
"""Least width of an interval, as a share of the largest value: a constant series has none."""


def anomaly_scores(model: Forecaster, batch: Batch, step: int | None = None) -> Tensor:
    """How unusual each point of `series` (B, C, T) is, (B, C, T): its distance from what the model forecast, in halves of the 80 % interval.

    Points are forecast `step` at a time (the model's horizon, or fewer) from those before them; 1 is the border of the interval, and 3 is rare. NaN
    where nothing was observed and for the first `LEAST` points. ConfigError for a model without quantiles, or a step that it cannot forecast.
    """
    if not model.levels:
        raise ConfigError(f"Anomalies are judged by quantiles, and this {type(model).__name__} forecasts none.")
    step = step or model.direct_horizon
    if not 1 <= step <= model.direct_horizon:
        raise ConfigError(f"step must be 1 to {model.direct_horizon}, found {step}.")
    batch = require_series(batch)
    series, observed = batch["series"], batch["observed"]
    scores = torch.full_like(series, torch.nan)
    least = NARROW * series.abs().amax(2, keepdim=True).clamp(min=NARROW)
    for begin in range(LEAST, series.shape[2], step):
        end = min(begin + step, series.shape[2])
        said = model.forecast(_part(batch, 0, begin), end - begin)
        half = torch.maximum((said.quantile(0.9) - said.quantile(0.1)) / 2, least)
        scores[..., begin:end] = (series[..., begin:end] - said.point).abs() / half
    return scores.masked_fill(~observed, torch.nan)


def imputed(model: Forecaster, batch: Batch) -> Tensor:
    """`series` (B, C, T) with its gaps filled: by a forecast from before, one backwards from after, and in between more of the nearer.

    Where there is no history of `LEAST` points on one side, the other counts; without both, the last or next observed value. A channel without any
    value stays NaN.
    """
    batch = require_series(batch)
    filled = torch.where(batch["observed"], batch["series"], torch.nan)
    for sample in range(filled.shape[0]):
        for channel in range(filled.shape[1]):
            _fill(model, filled[sample, channel], None if "frequency" not in batch else batch["frequency"][sample : sample + 1])
    return filled


def _fill(model: Forecaster, row: Tensor, frequency: Tensor | None) -> None:
    """Fill the gaps of one channel (T,), the oldest first, in place."""
    for begin, end in _gaps(row.isnan()):
        gap = end - begin
        before = _said(model, row[:begin], gap, frequency)
        after = _said(model, row[end:].flip(0), gap, frequency)
        if before is None and after is None:
            near = row[begin - 1] if begin else row[end] if end < len(row) else row.new_tensor(torch.nan)
            row[begin:end] = near
        elif after is None or before is None:
            row[begin:end] = before if before is not None else after.flip(0)
        else:
            share = torch.arange(1, gap + 1, device=row.device) / (gap + 1)
            row[begin:end] = torch.lerp(before, after.flip(0), share)


def _said(model: Forecaster, history: Tensor, steps: int, frequency: Tensor | None) -> Tensor | None:
    """(steps,) after a history (T,); None when too little of it was observed."""
    if int((~history.isnan()).sum()) < LEAST:
        return None
    asked: Batch = {"series": history[None, None]} | ({} if frequency is None else {"frequency": frequency})
    point = model.forecast(asked, steps).point[0, 0]
    return None if point.isnan().any() else point


def _gaps(missing: Tensor) -> list[tuple[int, int]]:
    """(begin, end) of each run of missing points."""
    edges = torch.nn.functional.pad(missing.int(), (1, 1)).diff().nonzero().flatten().tolist()
    return list(zip(edges[::2], edges[1::2]))


def _part(batch: Batch, begin: int, end: int) -> Batch:
    """Some time of a batch, without covariates."""
    return {"series": batch["series"][..., begin:end], "observed": batch["observed"][..., begin:end]} | ({"frequency": batch["frequency"]} if "frequency" in batch else {})
