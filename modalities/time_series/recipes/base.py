"""What the recipes on generated series share: windows of the model's own lengths, the loss on held-out ones, pictures of forecasts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.pictures import draw_batch
from modalities.time_series.synthetic.windows import SyntheticData, SyntheticWindows
from trainer.objective import Objective
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

PICTURES = 6
"""Forecasts in a sheet."""
TASK = "time-series-forecasting"
"""The Hub's name of it."""


@dataclass(frozen=True)
class GeneratedRecipe(ModelRecipe):
    """Train on generated series. A subclass says which network, and its configs."""

    network: ClassVar[type[Forecaster]]

    data: SyntheticData = field(default_factory=SyntheticData)
    """Which series."""
    future: int | None = None
    """Steps of the future in a training window. Null: as many as the model says at once."""

    def build(self) -> tuple[SyntheticWindows, Objective]:
        model = self.network(self.model)
        model.name, model.preprocess = self.recipe, model.default_preprocess()
        return self.data.build(self.past(model), self.future or model.direct_horizon), self.objective.build(model)

    def past(self, model: Forecaster) -> int:
        """Points of the past in a training window: as many as the model reads."""
        return model.context_length

    def loss_name(self) -> str:
        """The words for what is measured on held-out windows."""
        return "training loss"

    def evaluators(self, source: SyntheticWindows, objective: Objective) -> list[ReportedEvaluator]:
        """The loss on held-out windows."""
        return [HeldOut(source.held_out, TASK, self.loss_name())]

    def draw(self, objective: Objective, source: SyntheticWindows) -> Draw:
        """Draws forecasts of a few held-out windows, always the same."""
        batch = source.held_out.fetch(range(min(PICTURES, len(source.held_out))))

        def draw(objective: Objective, path: Path, title: str) -> None:
            draw_batch(objective.export(), batch, path, title)

        return draw


def tiny(batch_size: int, steps: int, lr: float, beta: float = 0.98) -> TrainConfig:
    """Training of a minute on one core: AdamW with a memory of the squared gradients of `beta`."""
    return TrainConfig(batch_size=batch_size, steps=steps, optim=OptimConfig(lr=lr, betas=(0.9, beta), weight_decay=0.01, clip_norm=1.0), schedule=ScheduleConfig(warmup=0.05))
