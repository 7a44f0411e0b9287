"""Recipes of TTM on generated series: a tiny one for a laptop, and that of the bundled forecaster."""

from dataclasses import dataclass, field
from typing import TypeVar

from modalities import registry
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from modalities.time_series.objectives.relative import RelativeConfig
from modalities.time_series.recipes.base import GeneratedRecipe, tiny
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

Recipe = TypeVar("Recipe", bound="TTMRecipe")


@dataclass(frozen=True)
class TTMRecipe(GeneratedRecipe):
    """Pre-train tiny time mixers to forecast (Ekambaram et al. 2024, arXiv 2401.03955) on generated series."""

    network = TTM

    model: TTMConfig = field(default_factory=TTMConfig)
    """The network."""
    objective: ForecastingConfig = field(default_factory=ForecastingConfig)
    """Which error."""

    def loss_name(self) -> str:
        return f"{self.objective.loss} loss"


@dataclass(frozen=True)
class TTMSynthRecipe(TTMRecipe):
    """TTM on generated series, whose errors count relative to the steps of a series."""

    objective: RelativeConfig = field(default_factory=RelativeConfig)
    """Which error."""


def ttm_tiny() -> TTMRecipe:
    """A small TTM with quantiles, for series of every kind, on generated ones: a minute shows that it learns, hours make it good."""
    return _recipe(TTMRecipe, "time_series/ttm-tiny", ForecastingConfig(loss="pinball", clip=10.0), tiny(256, 300, 2e-3, beta=0.99))


def ttm_tiny_synth() -> TTMSynthRecipe:
    """The bundled forecaster: a small TTM with the quantiles of R3, about an hour on one core.

    Missing values and the time before a short history are the mean of the series (TTM has zeros there), and the quantile head reads
    all tokens for each step, so that intervals widen with the horizon.
    """
    schedule = ScheduleConfig(name="wsd", warmup=0.02, decay=0.35)
    optim = OptimConfig(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, clip_norm=1.0)
    train = TrainConfig(batch_size=128, steps=8000, ema=0.998, log_every=50, save_every=250, optim=optim, schedule=schedule)
    return _recipe(TTMSynthRecipe, "time_series/ttm-tiny-synth", RelativeConfig(loss="pinball", clip=15.0), train)


def _recipe(kind: type[Recipe], name: str, objective: ForecastingConfig, train: TrainConfig) -> Recipe:
    """The recipe of a registered model."""
    return kind(recipe=name, model=registry.config_of(name), objective=objective, train=train)
