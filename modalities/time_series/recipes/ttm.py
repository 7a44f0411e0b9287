"""Recipes of TTM: tiny ones on generated series, which run on a laptop."""

from dataclasses import dataclass, field
from pathlib import Path

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.forecasting import Forecasting, ForecastingConfig
from modalities.time_series.pictures import draw_batch
from modalities.time_series.preprocess import SeriesPreprocess
from modalities.time_series.synthetic.windows import SyntheticData, SyntheticWindows
from trainer.config import replace
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

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


def ttm_tiny() -> TTMRecipe:
    """A small TTM with quantiles, for series of every kind, on generated ones: a minute shows that it learns, hours make it good."""
    name = "time_series/ttm-tiny"
    return TTMRecipe(
        recipe=name,
        model=replace(TTMConfig(), registry.find(name).fields),
        objective=ForecastingConfig(loss="pinball", clip=10.0),
        train=TrainConfig(
            batch_size=256,
            steps=300,
            optim=OptimConfig(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01, clip_norm=1.0),
            schedule=ScheduleConfig(warmup=0.05),
        ),
    )
