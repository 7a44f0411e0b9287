"""Fine-tuning a forecasting model on series of one's own: `python -m modalities.time_series.finetune DATA --model NAME`.

What the model says without any training (zero-shot) is measured first, on validation and test windows; training stops when the validation
does not improve, and the best weights are kept. With `--head probe` the backbone stays as it is, as TTM's authors fine-tune; channels can be mixed
and covariates read (TTM).
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from modalities import registry
from modalities.common import pretrained
from modalities.common.evaluation import HeldOut, ReportedEvaluator, Row, result
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.models.ttm import TTM
from modalities.time_series.objectives.forecasting import Forecasting, ForecastingConfig
from modalities.time_series.pictures import draw_batch
from modalities.time_series.preprocess import SeriesPreprocess
from modalities.time_series.windows import SeriesData, SeriesWindows, split_windows
from trainer.data import ordered_batches, to_device
from trainer.errors import ConfigError, ModelError
from trainer.evaluation import EvalConfig, measure
from trainer.objective import Objective
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")

TASK = "time-series-forecasting"
PICTURES = 6
"""Test windows that are drawn."""


@dataclass(frozen=True)
class FinetuneRecipe(ModelRecipe):
    """Train a forecasting model on series of one's own, starting from a pre-trained one."""

    model: str = ""
    """Where the weights come from: a folder, or a name of the zoo."""
    scratch: bool = False
    """Start from random weights of the same architecture instead (the comparison that shows what pre-training gave)."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network is trained. probe: the backbone stays as it is, the decoder and the head are trained."""
    horizon: int | None = None
    """Steps of the future that windows hold. Null: as many as the model forecasts at once."""
    mix_channels: bool = False
    """TTM: forecast the channels together, by channel mixers in the decoder. Covariates imply it."""
    objective: ForecastingConfig = field(default_factory=lambda: ForecastingConfig(loss="pinball", clip=10.0))
    """Which error."""
    data: SeriesData = field(default_factory=SeriesData)
    """Which series, and how they are split."""

    def build(self) -> tuple[SeriesWindows, Forecasting]:
        model = _start(self.model, self.scratch)
        together = bool(self.mix_channels or self.data.past_covariates or self.data.future_covariates)
        horizon = self.horizon or model.direct_horizon
        if not 1 <= horizon <= model.direct_horizon:
            raise ConfigError(f"horizon must be 1 to {model.direct_horizon}, which {self.model} forecasts at once, found {horizon}. Longer ones are rolled out afterwards.")
        windows = split_windows(self.data, model.context_length, horizon, together)
        items = windows.test.items  # those of training hold down-sampled ones, too
        item = items[0]
        names = item.channels if len(items) == 1 and together else ()
        if together:
            model = _mixing(model, len(item.values), len(self.data.past_covariates), len(self.data.future_covariates))
        model.name = f"{model.system}-{Path(self.data.path).stem}"
        model.preprocess = SeriesPreprocess(None, item.frequency, names, self.data.past_covariates if names else (), self.data.future_covariates if names else ())
        if self.head == "probe":
            _freeze(model)
        log.info("%s training, %s validation and %s test windows of %d series", f"{len(windows):,}", f"{len(windows.held_out):,}", f"{len(windows.test):,}", len(items))
        return windows, self.objective.build(model)

    def evaluators(self, source: SeriesWindows, objective: Forecasting) -> list[ReportedEvaluator]:
        """The loss on validation windows and the error on test windows; both are measured now, before training, and compared with at the end."""
        start = "from random weights" if self.scratch else "zero-shot"
        found: list[ReportedEvaluator] = [Improvement(source.held_out, TASK, f"{self.objective.loss} loss", start), TestError(source.test, start)]
        for evaluator in found:
            for name, value in measure([evaluator], objective).items():
                evaluator.before[name] = value
                log.info("Before training (%s): %s %.4f on %s", start, name, value, evaluator.source.name)
        return found

    def draw(self, objective: Forecasting, source: SeriesWindows) -> Draw:
        """Draws forecasts of test windows, with what happened."""
        batch = source.test.fetch(spread(len(source.test), PICTURES))

        def draw(objective: Forecasting, path: Path, title: str) -> None:
            draw_batch(objective.export(), batch, path, title)

        return draw


class Improvement(HeldOut):
    """The loss on validation windows, beside what it was before training."""

    def __init__(self, source: SeriesWindows, task: str, what: str, start: str) -> None:
        super().__init__(source, task, what)
        self.start = start
        self.before: dict[str, float] = {}

    def row(self, name: str, value: float) -> Row:
        row = super().row(name, value)
        return {**row, "split": "validation", "detail": f"{row['detail']}; {compared(value, self.before.get(name), self.start, 'on validation')}"}


class TestError:
    """`relative_mae` of the point forecast on test windows: its absolute error over that of repeating the last value (the naive forecast)."""

    higher_is_better = {"relative_mae": False}
    __test__ = False  # pytest would take it for a test

    def __init__(self, source: SeriesWindows, start: str) -> None:
        self.source, self.start, self.name = source, start, f"error on {source.name}"
        self.before: dict[str, float] = {}

    def __call__(self, objective: Objective) -> dict[str, float]:
        model = objective.export()
        error = naive = 0.0
        for batch in ordered_batches(self.source, 256):
            batch = to_device(batch, model.device)
            said = model.forecast({key: value for key, value in batch.items() if not key.startswith("target")}, batch["target"].shape[2]).point
            seen, target = batch["target_observed"] & said.isfinite(), batch["target"]
            places = torch.arange(batch["series"].shape[2], device=model.device)
            last = torch.where(batch["observed"], places, 0).amax(2, keepdim=True)  # of the newest observed value
            error += float(torch.where(seen, said - target, 0.0).abs().double().sum())
            naive += float(torch.where(seen, batch["series"].gather(2, last) - target, 0.0).abs().double().sum())
        return {"relative_mae": error / naive if naive else float("nan")}

    def row(self, name: str, value: float) -> Row:
        before = self.before.get(name)
        row = result(self.source, TASK, name, round(value, 4), f"of the naive forecast; {compared(value, before, self.start, 'on test windows')}")
        return {**row, "before": before}


def compared(value: float, before: float | None, start: str, where: str) -> str:
    """A value beside what it was before training, in words; a warning when it became worse."""
    if before is None:
        return f"{start}: not measured"
    if value > before:
        log.warning("Fine-tuning made the model worse %s: %.4f, and %.4f %s. Use the model as it was, or try --head probe, a lower --train.optim.lr, or more data.", where, value, before, start)
    return f"{start} {before:.4f}{', which was better' if value > before else ''}"


def _start(name: str, scratch: bool) -> Forecaster:
    """The model that fine-tuning begins with."""
    if not name:
        raise ConfigError("Say which model to start from: --model FOLDER_OR_NAME (`zoo list time_series` shows the names).")
    model = pretrained.create(name) if scratch and name in registry.entries() else pretrained.load(name)
    if not isinstance(model, Forecaster):
        raise ModelError(f"{name} is a {model.system}, which does not forecast.")
    if scratch:
        model = type(model)(model.config)
    return model


def _mixing(model: Forecaster, targets: int, past: int, future: int) -> TTM:
    """A TTM whose decoder mixes channels, with covariates as further channels, those known ahead also in a mixer of forecasts."""
    if not isinstance(model, TTM) or not model.config.use_decoder:
        raise ModelError(f"Mixing channels and covariates is there for TTM with a decoder, not for this {type(model).__name__}. Leave mix_channels and covariates out.")
    if not model.config.any_channels:
        raise ModelError("This TTM mixes channels already. Start from one that takes each channel by itself.")
    channels = targets + past + future
    changes: dict[str, Any] = {"decoder_mode": "mix_channel", "num_input_channels": channels}
    if past or future:
        changes["prediction_channel_indices"] = tuple(range(targets))
    if future:
        changes |= {"exogenous_channel_indices": tuple(range(targets + past, channels)), "enable_forecast_channel_mixing": True, "fcm_scaled": True}
    return model.extended(changes)


def _freeze(model: Forecaster) -> None:
    """Leave the backbone as it is."""
    if not model.frozen_parts:
        raise ConfigError(f"head=probe keeps the backbone as it is, and {type(model).__name__} does not say which part that is. Use head=linear.")
    for name, parameter in model.named_parameters():
        if name.startswith(model.frozen_parts):
            parameter.requires_grad_(False)


def default_recipe(model: str, head: str = "linear", data: str = "") -> FinetuneRecipe:
    """A few hundred steps with early stopping; a lower learning rate when the whole network is trained."""
    return FinetuneRecipe(
        recipe="time_series/finetune",
        model=model,
        head=head,
        data=SeriesData(data),
        train=TrainConfig(
            batch_size=64,
            steps=300,
            optim=OptimConfig(lr=3e-4 if head == "linear" else 1e-3, betas=(0.9, 0.99), weight_decay=0.01, clip_norm=1.0),
            schedule=ScheduleConfig(warmup=0.05),
            evaluate=EvalConfig(every=25, best="eval/loss", patience=5),
        ),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from modalities.common.commandline import finetune_command, guarded

    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: finetune_command("python -m modalities.time_series.finetune", default_recipe, arguments))


if __name__ == "__main__":
    sys.exit(main())
