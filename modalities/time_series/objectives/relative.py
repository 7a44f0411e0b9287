"""Forecasting where the errors of a series count relative to how much it moves from step to step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.objectives.forecasting import Forecasting, ForecastingConfig
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses


@dataclass(frozen=True)
class RelativeConfig(ForecastingConfig):
    """Errors on the model's scale, weighted by series."""

    least: float = 0.2
    """The weight of a series is one over its mean step, as a share of the model's scale and at least this: 0.2 weighs smooth series up to five times."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.least <= 1 or self.units != "model":
            raise ConfigError(f"objective.least is a share above 0 and at most 1, and objective.units is model; found {self.least} and {self.units}.")

    def build(self, model: Forecaster) -> "RelativeForecasting":
        super().build(model)  # its checks
        return RelativeForecasting(model, self)


class RelativeForecasting(Forecasting):
    """A series that trends has a large deviation, and an error that is small beside it may still be many of its steps.

    Scores such as MASE are relative to the steps. So errors, which the model has relative to the deviation, are divided by the mean step
    |x_t - x_{t-1}| of the observed history as a share of the deviation.
    """

    def forward(self, batch: Batch) -> Losses:
        terms = self.model.loss_terms(batch)
        errors = self._errors(terms) / step_share(batch, terms.scale).clamp(self.config.least, 1)
        count = terms.observed.sum()
        loss = torch.where(terms.observed, errors, 0.0).sum() / count.clamp(min=1)
        return Losses(loss, {"loss": loss.detach()}, count)


def step_share(batch: Batch, scale: Tensor) -> Tensor:
    """Mean |x_t - x_{t-1}| over neighbours that were both observed, as a share of `scale` (B, C, 1); 0 where there are none."""
    series, observed = batch["series"], batch["observed"]
    both = observed[..., 1:] & observed[..., :-1]
    steps = torch.where(both, series.diff(dim=2).abs(), 0.0).sum(2, keepdim=True)
    return steps / both.sum(2, keepdim=True).clamp(min=1) / scale
