"""Recipes of SSPT for stocks and of CE-SSL for ECG: tiny ones on generated data, which run in a minute on one core."""

from dataclasses import dataclass, field

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import ModelRecipe
from modalities.time_series.ecg import FINDINGS, ECGConfig
from modalities.time_series.models.ce_ssl import CESSL, CESSLConfig
from modalities.time_series.models.sspt import SSPT, SSPTConfig
from modalities.time_series.objectives.ecg import ECGClassification, ECGClassificationConfig
from modalities.time_series.objectives.stocks import StockPretraining, StockPretrainingConfig, StockSelection, StockSelectionConfig
from modalities.time_series.recipes.base import tiny
from modalities.time_series.stocks import StockDays, StocksConfig, StockWindows
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.generated import Generated
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig


@dataclass(frozen=True)
class StockRecipe(ModelRecipe):
    """SSPT's pre-training: whose window it is, of which sector, and its mean price with hidden days (KDD 2025, arXiv 2506.16746)."""

    model: SSPTConfig = field(default_factory=SSPTConfig)
    """The network."""
    objective: StockPretrainingConfig = field(default_factory=StockPretrainingConfig)
    """The tasks."""
    data: StocksConfig = field(default_factory=StocksConfig)
    """Which prices."""

    def build(self) -> tuple[StockWindows, StockPretraining]:
        source = self.data.build()
        stocks, sectors = len(source.market.names), int(source.market.sectors.max()) + 1
        wanted = {"in_chans": source.features.shape[1], "days": self.data.days}
        if any(getattr(self.model, name) != value for name, value in wanted.items()) or 0 < self.model.num_stocks < stocks or 0 < self.model.num_sectors < sectors:
            raise ConfigError(
                f"These data have {wanted['in_chans']} features over {wanted['days']} days, {stocks} stocks and {sectors} sectors; the model is made for {self.model.in_chans}, "
                f"{self.model.days}, {self.model.num_stocks} and {self.model.num_sectors}. Set model.in_chans, model.days, model.num_stocks and model.num_sectors."
            )
        model = SSPT(self.model)
        model.name, model.preprocess = self.recipe, model.default_preprocess()
        return source, self.objective.build(model)

    def evaluators(self, source: StockWindows, objective: StockPretraining) -> list[ReportedEvaluator]:
        """The loss on the windows of the validation part."""
        return [HeldOut(self.data.build("validation"), "other", "sum of the stock tasks")]


@dataclass(frozen=True)
class StockSelectionRecipe(ModelRecipe):
    """SSPT's fine-tuning: returns of the next day and their order. `--init_from RUN` begins with a pre-trained model."""

    model: SSPTConfig = field(default_factory=SSPTConfig)
    """The network."""
    objective: StockSelectionConfig = field(default_factory=StockSelectionConfig)
    """The loss."""
    data: StocksConfig = field(default_factory=StocksConfig)
    """Which prices."""

    def build(self) -> tuple[StockDays, StockSelection]:
        model = SSPT(self.model)
        model.name, model.preprocess = self.recipe, model.default_preprocess()
        return self.data.build_days(), self.objective.build(model)

    def evaluators(self, source: StockDays, objective: StockSelection) -> list[ReportedEvaluator]:
        """The loss on the days of the validation part."""
        return [HeldOut(self.data.build_days("validation"), "other", "squared error of returns and their order")]


@dataclass(frozen=True)
class ECGRecipe(ModelRecipe):
    """Several findings per record, with records without labels for batch norm (CE-SSL, arXiv 2406.14377)."""

    model: CESSLConfig = field(default_factory=CESSLConfig)
    """The network; `model.ranks` and `objective.train=updates` train low-rank updates of it."""
    objective: ECGClassificationConfig = field(default_factory=ECGClassificationConfig)
    """The loss, and what trains."""
    data: ECGConfig = field(default_factory=ECGConfig)
    """Which records are generated."""

    def build(self) -> tuple[Generated, ECGClassification]:
        if self.model.num_classes != len(FINDINGS) or not self.model.multi_label:
            raise ConfigError(f"Generated records have the findings {', '.join(FINDINGS)}: set model.num_classes to {len(FINDINGS)} and model.multi_label to true.")
        model = CESSL(replace(self.model, {"class_names": FINDINGS}))
        model.name, model.preprocess = self.recipe, model.default_preprocess()
        return self.data.build(), self.objective.build(model)

    def evaluators(self, source: Generated, objective: ECGClassification) -> list[ReportedEvaluator]:
        """The loss on the test part."""
        return [HeldOut(self.data.build(test=True), "other", "cross entropy of the findings")]


def sspt_tiny() -> StockRecipe:
    """Ten generated stocks."""
    return StockRecipe(recipe="time_series/sspt-tiny", model=registry.config_of("time_series/sspt-tiny"), train=tiny(256, 300, 1e-3))


def sspt_tiny_stage2() -> StockSelectionRecipe:
    """Fine-tuning on the days of ten generated stocks, whose returns nobody can tell: it shows how it is done."""
    model = registry.config_of("time_series/sspt-tiny")
    return StockSelectionRecipe(recipe="time_series/sspt-tiny-stage2", model=model, train=tiny(32, 100, 1e-3))


def sspt_nasdaq() -> StockRecipe:
    """The authors' settings for the stocks of NASDAQ; `--data.path` names the folder of their prices."""
    model = registry.config_of("time_series/sspt-nasdaq")
    return StockRecipe(
        recipe="time_series/sspt-nasdaq", model=model,
        train=TrainConfig(batch_size=1024, epochs=100, optim=OptimConfig(lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0), schedule=ScheduleConfig(warmup=0.0)),
    )  # fmt: skip


def ce_ssl_tiny() -> ECGRecipe:
    """Generated records with four findings."""
    return ECGRecipe(recipe="time_series/ce-ssl-tiny", model=registry.config_of("time_series/ce-ssl-tiny"), train=tiny(32, 200, 3e-3))
