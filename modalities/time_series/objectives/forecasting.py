"""Training by forecasting: the error of what a model says of the future, over its observed values."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.time_series.models.forecaster import Forecaster, LossTerms
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class ForecastingConfig:
    """Which error, on which scale."""

    loss: Literal["mse", "mae", "huber", "pinball"] = "mse"
    """mse, mae, huber: of the point forecast. pinball: mean over the model's quantiles; of a model without any, of the point forecast as a quantile."""
    level: float = 0.5
    """Which quantile the point forecast of a model without quantiles becomes by the pinball loss."""
    huber_delta: float = 1.0
    """Error from which the Huber loss is linear, on the scale of the loss."""
    point_weight: float = 0.0
    """Weight of the absolute error of the point forecast beside the pinball loss (TTM-R3's `point_extra_weight`)."""
    width_weight: float = 0.0
    """Weight of the width of the intervals beside the pinball loss, for sharper forecasts (TTM-R3's `penalize_large_width_ratio`)."""
    widths: Literal["outer", "all"] = "outer"
    """Which widths: from the lowest to the highest quantile, or the mean over all pairs of mirrored quantiles."""
    units: Literal["model", "user"] = "model"
    """Scale of errors. model: the one that the model computes on, where series of all sizes count alike. user: that of the data, as TTM's own loss."""
    clip: float | None = None
    """Targets are limited to this absolute value on the model's scale: one jump of a series that was flat before must not drown the batch. Null: they are not."""

    def __post_init__(self) -> None:
        if self.huber_delta <= 0:
            raise ConfigError(f"objective.huber_delta must be above 0, found {self.huber_delta}.")
        for name in ("point_weight", "width_weight"):
            value = getattr(self, name)
            if value < 0 or (value and self.loss != "pinball"):
                raise ConfigError(f"objective.{name} goes with the pinball loss and is at least 0, found {value} with {self.loss}.")
        if not 0 < self.level < 1:
            raise ConfigError(f"objective.level must be between 0 and 1, found {self.level}.")
        if self.clip is not None and self.clip <= 0:
            raise ConfigError(f"objective.clip must be above 0 (or null), found {self.clip}.")

    def build(self, model: Forecaster) -> "Forecasting":
        """The objective around a model. ConfigError for weights of quantiles with a model that has none."""
        if not model.levels and (self.point_weight or self.width_weight):
            raise ConfigError(f"objective.point_weight and width_weight are for models with quantiles; this {type(model).__name__} has none. Set them to 0.")
        return Forecasting(model, self)


class Forecasting(Objective):
    """Mean error over the observed values of `target` (B, C, H); a batch without any has the loss 0."""

    def __init__(self, model: Forecaster, config: ForecastingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        return self.of(self.model.loss_terms(batch))

    def of(self, terms: LossTerms) -> Losses:
        """The loss of what a model said."""
        errors = self._errors(terms)
        if self.config.units == "user":  # mse and huber grow with the square of the scale, the others with the scale
            errors = errors * (terms.scale**2 if self.config.loss in ("mse", "huber") else terms.scale)
        count = terms.observed.sum()
        loss = torch.where(terms.observed, errors, 0.0).sum() / count.clamp(min=1)
        return Losses(loss, {"loss": loss.detach()}, count)

    def export(self) -> Forecaster:
        return self.model

    def _errors(self, terms: LossTerms) -> Tensor:
        """(B, C, H)."""
        target = torch.where(terms.observed, terms.target, 0.0)
        if self.config.clip is not None:
            target = target.clamp(-self.config.clip, self.config.clip)
        if self.config.loss == "pinball" and terms.quantiles is None:
            return pinball(terms.point[:, None], target, (self.config.level,))[:, 0]
        if self.config.loss == "pinball":
            errors = pinball(terms.quantiles, target, terms.levels).mean(1)
            if self.config.point_weight:
                errors = errors + self.config.point_weight * (terms.point - target).abs()
            return errors + self.config.width_weight * self._width(terms.quantiles) if self.config.width_weight else errors
        if self.config.loss == "huber":
            delta = self.config.huber_delta / terms.scale if self.config.units == "user" else self.config.huber_delta
            return huber(terms.point - target, delta)
        return F.mse_loss(terms.point, target, reduction="none") if self.config.loss == "mse" else (terms.point - target).abs()


    def _width(self, quantiles: Tensor) -> Tensor:
        """(B, C, H)."""
        widths = (quantiles - quantiles.flip(1))[:, quantiles.shape[1] // 2 + 1 :]  # the innermost first
        return widths[:, -1] if self.config.widths == "outer" else widths.mean(1)


def pinball(quantiles: Tensor, target: Tensor, levels: tuple[float, ...]) -> Tensor:
    """(B, Q, C, H): max(q e, (q - 1) e) of the error e = target - quantile, without the factor 2 that some papers put before it."""
    level = quantiles.new_tensor(levels).view(-1, 1, 1)
    error = target[:, None] - quantiles
    return torch.maximum(level * error, (level - 1) * error)


def huber(error: Tensor, delta: Tensor | float) -> Tensor:
    """Half the square up to `delta`, linear beyond."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
