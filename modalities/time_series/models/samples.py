"""From samples of the future to a forecast."""

from torch import Tensor

from modalities.time_series.models.forecaster import Forecast

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of the quantiles that samples are counted for."""


def forecast_of(samples: Tensor) -> Forecast:
    """The deciles of samples (B, S, C, H), their median as the point."""
    quantiles = samples.quantile(samples.new_tensor(DECILES), dim=1).transpose(0, 1)
    return Forecast(quantiles[:, DECILES.index(0.5)], quantiles, DECILES)
