"""Recipes of Chronos-Bolt, Chronos-2, Time-MoE and FlowState on generated series: the authors' settings as far as they are known, and micro ones.

The authors trained on large collections of real series; here the series are generated. What a preset takes from them is said beside it.
"""

from dataclasses import dataclass, field

from modalities import registry
from modalities.common.run import ModelRecipe
from modalities.time_series.models.chronos2 import Chronos2, Chronos2Config
from modalities.time_series.models.chronos_bolt import ChronosBolt, ChronosBoltConfig
from modalities.time_series.models.flowstate import FlowState, FlowStateConfig
from modalities.time_series.models.time_moe import TimeMoE, TimeMoEConfig
from modalities.time_series.objectives.chronos import Chronos2LossConfig, ChronosBoltLossConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from modalities.time_series.objectives.time_moe import TimeMoELossConfig
from modalities.time_series.recipes.base import GeneratedRecipe
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig


@dataclass(frozen=True)
class ChronosBoltRecipe(GeneratedRecipe):
    """Chronos-Bolt: quantiles of the steps after a window."""

    network = ChronosBolt

    model: ChronosBoltConfig = field(default_factory=ChronosBoltConfig)
    """The network."""
    objective: ChronosBoltLossConfig = field(default_factory=ChronosBoltLossConfig)
    """The loss."""


@dataclass(frozen=True)
class Chronos2Recipe(GeneratedRecipe):
    """Chronos-2: quantiles of the steps after a window. Generated windows are single series without covariates."""

    network = Chronos2

    model: Chronos2Config = field(default_factory=Chronos2Config)
    """The network."""
    objective: Chronos2LossConfig = field(default_factory=Chronos2LossConfig)
    """The loss."""


@dataclass(frozen=True)
class TimeMoERecipe(GeneratedRecipe):
    """Time-MoE: every point of a window says the next ones (Shi et al. 2025, arXiv 2409.16040)."""

    network = TimeMoE

    model: TimeMoEConfig = field(default_factory=TimeMoEConfig)
    """The network."""
    objective: TimeMoELossConfig = field(default_factory=TimeMoELossConfig)
    """The loss."""


@dataclass(frozen=True)
class FlowStateRecipe(GeneratedRecipe):
    """FlowState: quantiles of the steps after a window, all series at the model's own speed. The authors' loss at every point is not released."""

    network = FlowState

    model: FlowStateConfig = field(default_factory=FlowStateConfig)
    """The network."""
    objective: ForecastingConfig = field(default_factory=lambda: ForecastingConfig("pinball", clip=15.0))
    """Which error."""

    def past(self, model: FlowState) -> int:
        """The context at speed 1; a model at another speed reads more or less of it."""
        return self.model.context_length


CHRONOS = TrainConfig(
    batch_size=256, steps=200_000, optim=OptimConfig(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0), schedule=ScheduleConfig(name="linear", warmup=0.0)
)
"""Batch, length, rate and its linear fall of Chronos' published training script (Ansari et al. 2024); those of the later models are not published."""
TIME_MOE = TrainConfig(
    batch_size=1024, steps=100_000, optim=OptimConfig(lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, clip_norm=1.0), schedule=ScheduleConfig(warmup=0.1)
)
"""The paper's."""
FLOWSTATE = TrainConfig(
    batch_size=256, steps=100_000, optim=OptimConfig(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, clip_norm=1.0), schedule=ScheduleConfig(warmup=0.05)
)
"""Our own choice: the authors' are not published."""
MICRO = TrainConfig(batch_size=64, steps=300, optim=OptimConfig(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01, clip_norm=1.0), schedule=ScheduleConfig(warmup=0.1))
"""One to six minutes on one core that others use, too: Chronos-2 the least, Time-MoE the most."""


def preset(kind: type[GeneratedRecipe], name: str, train: TrainConfig) -> ModelRecipe:
    """The recipe of a registered model."""
    return kind(recipe=name, model=registry.config_of(name), train=train)


def chronos_bolt_tiny() -> ModelRecipe:
    return preset(ChronosBoltRecipe, "time_series/chronos-bolt-tiny", CHRONOS)


def chronos_bolt_mini() -> ModelRecipe:
    return preset(ChronosBoltRecipe, "time_series/chronos-bolt-mini", CHRONOS)


def chronos_bolt_small() -> ModelRecipe:
    return preset(ChronosBoltRecipe, "time_series/chronos-bolt-small", CHRONOS)


def chronos_bolt_base() -> ModelRecipe:
    return preset(ChronosBoltRecipe, "time_series/chronos-bolt-base", CHRONOS)


def chronos_bolt_micro() -> ModelRecipe:
    return preset(ChronosBoltRecipe, "time_series/chronos-bolt-micro", MICRO)


def chronos_2() -> ModelRecipe:
    return preset(Chronos2Recipe, "time_series/chronos-2", CHRONOS)


def chronos_2_small() -> ModelRecipe:
    return preset(Chronos2Recipe, "time_series/chronos-2-small", CHRONOS)


def chronos_2_micro() -> ModelRecipe:
    return preset(Chronos2Recipe, "time_series/chronos-2-micro", MICRO)


def time_moe_50m() -> ModelRecipe:
    return preset(TimeMoERecipe, "time_series/time-moe-50m", TIME_MOE)


def time_moe_200m() -> ModelRecipe:
    return preset(TimeMoERecipe, "time_series/time-moe-200m", TIME_MOE)


def time_moe_ultra() -> ModelRecipe:
    return preset(TimeMoERecipe, "time_series/time-moe-ultra", TIME_MOE)


def time_moe_micro() -> ModelRecipe:
    return preset(TimeMoERecipe, "time_series/time-moe-micro", MICRO)


def flowstate_r1() -> ModelRecipe:
    return preset(FlowStateRecipe, "time_series/flowstate-r1", FLOWSTATE)


def flowstate_r1_1() -> ModelRecipe:
    return preset(FlowStateRecipe, "time_series/flowstate-r1.1", FLOWSTATE)


def flowstate_micro() -> ModelRecipe:
    return preset(FlowStateRecipe, "time_series/flowstate-micro", MICRO)
