"""Recipes of TTM on generated series: a tiny one for a laptop, and that of the bundled forecaster."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.forecasting import Forecasting, ForecastingConfig
from modalities.time_series.objectives.relative import RelativeConfig
from modalities.time_series.pictures import draw_batch
from modalities.time_series.preprocess import SeriesPreprocess
from modalities.time_series.synthetic.windows import SyntheticData, SyntheticWindows
from trainer.config import replace
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

Recipe = TypeVar("Recipe", bound="TTMRecipe")
PICTURES = 6
"""Forecasts in a sheet."""


@dataclass(frozen=True)
class TTMRecipe(ModelRecipe):
    """Pre-train tiny time mixers to forecast (Ekambaram et al. 2024, arXiv 2401.03955) on generated series."""

    model: TTMConfig = field(default_factory=TTMConfig)
    """The network."""
    objective: ForecastingConfig = field(default_factory=ForecastingConfig)
    """Which error."""
    data: SyntheticData = field(default_factory=SyntheticData)
    """Which series."""

    def build(self) -> tuple[SyntheticWindows, Forecasting]:
        source = self.data.build(self.model.context_length, self.model.horizon)
        model = TTM(self.model)
        model.name, model.preprocess = self.recipe, SeriesPreprocess()
        return source, self.objective.build(model)

    def evaluators(self, source: SyntheticWindows, objective: Forecasting) -> list[ReportedEvaluator]:
        """The loss on held-out windows."""
        return [HeldOut(source.held_out, "time-series-forecasting", f"{self.objective.loss} loss")]

    def draw(self, objective: Forecasting, source: SyntheticWindows) -> Draw:
        """Draws forecasts of a few held-out windows, always the same."""
        batch = source.held_out.fetch(range(PICTURES))

        def draw(objective: Forecasting, path: Path, title: str) -> None:
            draw_batch(objective.export(), batch, path, title)

        return draw


@dataclass(frozen=True)
class TTMSynthRecipe(TTMRecipe):
    """TTM on generated series, whose errors count relative to the steps of a series."""

    objective: RelativeConfig = field(default_factory=RelativeConfig)
    """Which error."""


def ttm_tiny() -> TTMRecipe:
    """A small TTM with quantiles, for series of every kind, on generated ones: a minute shows that it learns, hours make it good."""
    train = TrainConfig(batch_size=256, steps=300, optim=_optim(0.99), schedule=ScheduleConfig(warmup=0.05))
    return _recipe(TTMRecipe, "time_series/ttm-tiny", ForecastingConfig(loss="pinball", clip=10.0), train)


def ttm_tiny_synth() -> TTMSynthRecipe:
    """The bundled forecaster: a small TTM with the quantiles of R3, about an hour on one core.

    Missing values and the time before a short history are the mean of the series (TTM has zeros there), and the quantile head reads
    all tokens for each step, so that intervals widen with the horizon.
    """
    schedule = ScheduleConfig(name="wsd", warmup=0.02, decay=0.35)
    train = TrainConfig(batch_size=128, steps=8000, ema=0.998, log_every=50, save_every=250, optim=_optim(0.98), schedule=schedule)
    return _recipe(TTMSynthRecipe, "time_series/ttm-tiny-synth", RelativeConfig(loss="pinball", clip=15.0), train)


def _recipe(kind: type[Recipe], name: str, objective: ForecastingConfig, train: TrainConfig) -> Recipe:
    """The recipe of a registered model."""
    return kind(recipe=name, model=replace(TTMConfig(), registry.find(name).fields), objective=objective, train=train)


def _optim(beta: float) -> OptimConfig:
    """AdamW with a memory of the squared gradients of `beta`."""
    return OptimConfig(lr=2e-3, betas=(0.9, beta), weight_decay=0.01, clip_norm=1.0)
