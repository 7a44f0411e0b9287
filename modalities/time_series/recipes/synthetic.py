"""Pre-training of forecasting models on generated series alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.forecasting import Forecasting, ForecastingConfig
from modalities.time_series.objectives.relative import RelativeConfig
from modalities.time_series.pictures import Panel, draw_forecasts
from modalities.time_series.preprocess import SeriesPreprocess
from modalities.time_series.synthetic.windows import SyntheticData, SyntheticWindows
from trainer.config import replace
from trainer.data import to_device
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

TASK = "time-series-forecasting"
"""The Hub's name of it."""
PICTURES = 8
"""Held-out windows in a picture."""


@dataclass(frozen=True)
class SyntheticRecipe(ModelRecipe):
    """Train a forecasting model on generated series; a system has its own subclass, with its own config."""

    network: ClassVar[type[Forecaster]]

    objective: ForecastingConfig = field(default_factory=ForecastingConfig)
    """Which error is minimised."""
    data: SyntheticData = field(default_factory=SyntheticData)
    """Which series."""

    def build(self) -> tuple[SyntheticWindows, Forecasting]:
        model = self.network(self.model)
        model.name, model.preprocess = self.recipe, SeriesPreprocess()
        return self.data.build(model.context_length, model.direct_horizon), self.objective.build(model)

    def evaluators(self, source: SyntheticWindows, objective: Forecasting) -> list[ReportedEvaluator]:
        """The loss on held-out generated windows."""
        return [HeldOut(source.held_out, TASK, f"{self.objective.loss} loss")]

    def draw(self, objective: Forecasting, source: SyntheticWindows) -> Draw:
        """Draws forecasts of a few held-out windows, always the same."""
        batch = source.held_out.fetch(range(min(PICTURES, len(source.held_out))))

        def draw(objective: Forecasting, path: Path, title: str) -> None:
            draw_windows(objective.export(), batch, path, title)

        return draw


def draw_windows(model: Forecaster, batch: dict[str, torch.Tensor], path: Path, title: str) -> None:
    """History, truth and forecast of the first channel of each window of a training batch."""
    was_training = model.training
    model.eval()
    known = {key: value for key, value in batch.items() if not key.startswith(("target", "sample"))}
    said = model.forecast(to_device(known, model.device), batch["target"].shape[2])
    model.train(was_training)
    masked = {key: torch.where(batch[mask], batch[key], torch.nan)[:, 0].numpy() for key, mask in (("series", "observed"), ("target", "target_observed"))}
    quantiles = None if said.quantiles is None else said.quantiles[:, :, 0].cpu().numpy()
    panels = [
        Panel(f"generated series {i}", masked["series"][i], said.point[i, 0].cpu().numpy(), None if quantiles is None else quantiles[i], said.levels, masked["target"][i])
        for i in range(len(masked["series"]))
    ]
    draw_forecasts(panels, path, title)


@dataclass(frozen=True)
class TTMSyntheticRecipe(SyntheticRecipe):
    """TTM on generated series."""

    network = TTM

    model: TTMConfig = field(default_factory=TTMConfig)
    """The network."""
    objective: RelativeConfig = field(default_factory=RelativeConfig)
    """Which error is minimised."""


def ttm_tiny_synth() -> TTMSyntheticRecipe:
    """The bundled forecaster: a small TTM with the quantiles of R3, about an hour on one core.

    Missing values and the time before a short history are the mean of the series (TTM has zeros there), and the quantile head reads
    all tokens for each step, so that intervals widen with the horizon.
    """
    name = "time_series/ttm-tiny-synth"
    return TTMSyntheticRecipe(
        recipe=name,
        model=replace(TTMConfig(), registry.find(name).fields),
        objective=RelativeConfig(loss="pinball", clip=15.0),
        train=TrainConfig(
            batch_size=128,
            steps=8000,
            ema=0.998,
            log_every=50,
            save_every=250,
            optim=OptimConfig(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, clip_norm=1.0),
            schedule=ScheduleConfig(name="wsd", warmup=0.02, decay=0.35),
        ),
    )
