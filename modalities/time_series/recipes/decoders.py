"""Recipes of GPHT, TimelyGPT and GPD on generated series: the papers' settings as far as they are known, and tiny ones that run in a minute on one core."""

from dataclasses import dataclass, field

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import ModelRecipe
from modalities.time_series.codes import VisitsConfig
from modalities.time_series.models.gpd import GPD, GPDConfig
from modalities.time_series.models.gpht import GPHT, GPHTConfig
from modalities.time_series.models.timelygpt import TimelyGPT, TimelyGPTConfig
from modalities.time_series.models.timelygpt_codes import TimelyGPTCodes, TimelyGPTCodesConfig
from modalities.time_series.objectives.denoising import DenoisingConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from modalities.time_series.objectives.timelygpt import NextCode, NextCodeConfig
from modalities.time_series.recipes.base import GeneratedRecipe, tiny
from trainer.generated import Generated
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig



@dataclass(frozen=True)
class GPHTRecipe(GeneratedRecipe):
    """GPHT: every token of a window says the next one (Liu et al. 2024, arXiv 2402.16516)."""

    network = GPHT

    model: GPHTConfig = field(default_factory=GPHTConfig)
    """The network."""
    objective: ForecastingConfig = field(default_factory=ForecastingConfig)
    """Which error. The authors: that in the units of the series (units=user), which they scale before."""


@dataclass(frozen=True)
class TimelyGPTRecipe(GeneratedRecipe):
    """TimelyGPT for signals (Song et al. 2024, arXiv 2312.00817): every token of four points says the next one."""

    network = TimelyGPT

    model: TimelyGPTConfig = field(default_factory=TimelyGPTConfig)
    """The network."""
    objective: ForecastingConfig = field(default_factory=ForecastingConfig)
    """Which error."""


@dataclass(frozen=True)
class GPDRecipe(GeneratedRecipe):
    """GPD, experimental: learn the noise in windows."""

    network = GPD

    model: GPDConfig = field(default_factory=GPDConfig)
    """The network."""
    objective: DenoisingConfig = field(default_factory=DenoisingConfig)
    """What counts."""


@dataclass(frozen=True)
class CodesRecipe(ModelRecipe):
    """TimelyGPT for codes (Song et al. 2024, arXiv 2312.00817): say the next one."""

    model: TimelyGPTCodesConfig = field(default_factory=TimelyGPTCodesConfig)
    """The network."""
    objective: NextCodeConfig = field(default_factory=NextCodeConfig)
    """The loss."""
    data: VisitsConfig = field(default_factory=VisitsConfig)
    """Which sequences are generated."""

    def build(self) -> tuple[Generated, NextCode]:
        model = TimelyGPTCodes(self.model)
        model.name, model.preprocess = self.recipe, model.default_preprocess()
        return self.data.build(), self.objective.build(model)

    def evaluators(self, source: Generated, objective: NextCode) -> list[ReportedEvaluator]:
        """Loss and accuracy on held-out sequences."""
        return [HeldOut(self.data.build(held_out=True), "other", "cross entropy of the next code", ("accuracy",))]


def gpht_base() -> GPHTRecipe:
    """The authors' batch, optimiser and rate; theirs is pre-trained on real sets, and halves the rate after each epoch."""
    train = TrainConfig(batch_size=1024, epochs=10, optim=OptimConfig(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0), schedule=ScheduleConfig(warmup=0.0))
    return GPHTRecipe(recipe="time_series/gpht-base", objective=ForecastingConfig("mse", clip=10.0), train=train)


def gpht_tiny() -> GPHTRecipe:
    """A minute shows that it learns."""
    return GPHTRecipe(recipe="time_series/gpht-tiny", model=registry.config_of("time_series/gpht-tiny"), objective=ForecastingConfig("mae", clip=10.0), train=tiny(64, 300, 2e-3))


def timelygpt_base() -> TimelyGPTRecipe:
    """The authors' network; batch and rate are our own choice, since their script does not use the rate that it takes."""
    return TimelyGPTRecipe(
        recipe="time_series/timelygpt-base", objective=ForecastingConfig("mae", clip=10.0), future=256,
        train=TrainConfig(batch_size=64, epochs=20, optim=OptimConfig(lr=3e-4), schedule=ScheduleConfig(warmup=0.05)),
    )  # fmt: skip


def timelygpt_tiny() -> TimelyGPTRecipe:
    """A minute shows that it learns."""
    name = "time_series/timelygpt-tiny"
    return TimelyGPTRecipe(recipe=name, model=registry.config_of(name), objective=ForecastingConfig("mae", clip=10.0), future=32, train=tiny(32, 200, 2e-3))


def timelygpt_codes_tiny() -> CodesRecipe:
    """Generated visits of 24 codes."""
    name = "time_series/timelygpt-codes-tiny"
    return CodesRecipe(recipe=name, model=registry.config_of(name), train=tiny(64, 300, 3e-3))


def gpd_tiny() -> GPDRecipe:
    """A minute shows that the loss falls."""
    return GPDRecipe(recipe="time_series/gpd-tiny", model=registry.config_of("time_series/gpd-tiny"), train=tiny(256, 600, 1e-3))
