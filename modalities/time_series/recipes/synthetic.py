"""The recipe of the bundled forecaster, which is trained on generated series alone."""

from dataclasses import dataclass, field

from modalities import registry
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.relative import RelativeConfig
from modalities.time_series.recipes.ttm import TTMRecipe
from trainer.config import replace
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig


@dataclass(frozen=True)
class TTMSynthRecipe(TTMRecipe):
    """TTM on generated series, whose errors count relative to the steps of a series."""

    objective: RelativeConfig = field(default_factory=RelativeConfig)
    """Which error."""


def ttm_tiny_synth() -> TTMSynthRecipe:
    """A small TTM with the quantiles of R3, about an hour on one core.

    Missing values and the time before a short history are the mean of the series (TTM has zeros there), and the quantile head reads
    all tokens for each step, so that intervals widen with the horizon.
    """
    name = "time_series/ttm-tiny-synth"
    return TTMSynthRecipe(
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
