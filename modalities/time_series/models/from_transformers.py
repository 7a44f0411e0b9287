"""Forecasters of transformers as models of the zoo, with that library's own code: TimesFM (Das et al. 2023, arXiv 2310.10688), PatchTST (Nie et al. 2022,
arXiv 2211.14730) and PatchTSMixer (Ekambaram et al. 2023, arXiv 2306.09364).

Their tensors have the names of transformers behind `network.`. Letters: B batch, C channels, T points, N tokens, D width, Q quantiles, H horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.time_series.frequency import TOKENS
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms, require_series
from modalities.time_series.models.samples import DECILES, forecast_of
from trainer.errors import ConfigError, DataError, ModelError, did_you_mean, shorten
from trainer.objective import Batch
from trainer.optional import library
from trainer.randomness import seeded

SLOWER = {TOKENS["W"]: 1, TOKENS["ME"]: 1, TOKENS["QE"]: 2, TOKENS["YE"]: 2}
"""Token of a sampling interval -> TimesFM's class of frequency; 0 for those up to a day."""


@dataclass(frozen=True)
class TransformersConfig:
    """Which network, in the words of transformers."""

    family: ClassVar[dict[str, tuple[str, str]]] = {}
    """`model_type` -> its config and its model in transformers."""

    model_type: str = ""
    """Which of the family."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of that library's config that differ from its defaults."""

    def __post_init__(self) -> None:
        if self.model_type not in self.family:
            raise ConfigError(f"model_type must be one of {', '.join(self.family)}, found {shorten(self.model_type)}.{did_you_mean(self.model_type, self.family)}")
        usual = self.usual()
        unknown = next((name for name in self.arguments if name not in usual), None)
        if unknown is not None:
            raise ConfigError(f"arguments: {shorten(unknown)} is no argument of a {self.model_type} in transformers.{did_you_mean(unknown, usual)}")

    def usual(self) -> dict[str, Any]:
        """The arguments of this network with their defaults, without those that every model of that library has."""
        transformers = library("transformers", f"A {self.model_type}")
        shared = transformers.PretrainedConfig().to_dict()
        return {name: value for name, value in getattr(transformers, self.family[self.model_type][0])().to_dict().items() if name not in shared}

    def theirs(self) -> Any:
        """The config of transformers. ConfigError for arguments that it does not take."""
        transformers = library("transformers", f"A {self.model_type}")
        try:
            return getattr(transformers, self.family[self.model_type][0])(**self.arguments)
        except Exception as error:  # that library checks its arguments with errors of many kinds
            raise ConfigError(f"transformers does not take these arguments for a {self.model_type}: {shorten(str(error), 300)}") from error


class TransformersForecaster(Forecaster):
    """Base: input `series` (B, C, T) with `observed`; any T."""

    parts = {"network.": "model"}

    def __init__(self, config: TransformersConfig) -> None:
        super().__init__(config)
        transformers, theirs = library("transformers", f"A {config.model_type}"), config.theirs()
        self.network = getattr(transformers, config.family[config.model_type][1])(theirs)

    @property
    def context_length(self) -> int:
        return self.network.config.context_length

    def loss_terms(self, batch: Batch) -> LossTerms:
        """The forecast and the truth in the units of the series. DataError for a target beyond `direct_horizon`."""
        horizon = batch["target"].shape[2]
        if horizon > self.direct_horizon:
            raise DataError(f"This model forecasts {self.direct_horizon} steps at once; found a target of {horizon}.")
        said = self.direct(batch, horizon)
        return LossTerms(said.point, batch["target"], batch["target_observed"], said.quantiles, said.levels)

    def embed(self, batch: Batch) -> Tensor:
        return self.tokens(batch).mean(1)


@dataclass(frozen=True)
class TimesFMConfig(TransformersConfig):
    """TimesFM 1 and 2 (timesfm), or 2.5 (timesfm2_5). The defaults are those of transformers: 2.0 with 500 million parameters for a context of 512."""

    family: ClassVar[dict[str, tuple[str, str]]] = {
        "timesfm": ("TimesFmConfig", "TimesFmModelForPrediction"), "timesfm2_5": ("TimesFm2_5Config", "TimesFm2_5ModelForPrediction"),
    }  # fmt: skip

    model_type: Literal["timesfm", "timesfm2_5"] = "timesfm"
    """Which release."""


class TimesFM(TransformersForecaster):
    """Input `series` (B, C, T) with `observed`, and perhaps `frequency` (B,), which TimesFM 1 and 2 read; channels are taken one by one, gaps are filled by straight lines."""

    system = "time_series/timesfm"
    config_class = TimesFMConfig

    @property
    def direct_horizon(self) -> int:
        return self.network.config.horizon_length

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(self.network.config.quantiles)

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        shape, said = batch["series"].shape[:2], self._said(batch)
        quantiles = said.full_predictions[:, :horizon, 1:].unflatten(0, shape).permute(0, 3, 1, 2)
        return Forecast(said.mean_predictions[:, :horizon].unflatten(0, shape), quantiles, self.levels)

    def tokens(self, batch: Batch) -> Tensor:
        """Features of the patches, channel by channel, (B, C * N, D)."""
        batch = self._newest(require_series(batch))
        return self._said(batch).last_hidden_state.unflatten(0, batch["series"].shape[:2]).flatten(1, 2)

    def _said(self, batch: Batch) -> Any:
        series, observed = batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1)
        arguments: dict[str, Any] = {"past_values": [_filled(values, seen) for values, seen in zip(series, observed)]}
        if self.config.model_type == "timesfm":
            told = batch["frequency"].tolist() if "frequency" in batch else [0] * len(batch["series"])
            arguments["freq"] = [SLOWER.get(token, 0) for token in told for _ in range(batch["series"].shape[1])]
        return self.network(**arguments)


@dataclass(frozen=True)
class PatchConfig(TransformersConfig):
    """PatchTST or PatchTSMixer with a head for forecasts. The defaults are those of transformers."""

    family: ClassVar[dict[str, tuple[str, str]]] = {
        "patchtst": ("PatchTSTConfig", "PatchTSTForPrediction"), "patchtsmixer": ("PatchTSMixerConfig", "PatchTSMixerForPrediction"),
    }  # fmt: skip

    model_type: Literal["patchtst", "patchtsmixer"] = "patchtst"
    """Which of the two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arguments.get("prediction_channel_indices") is not None:
            raise ConfigError("A PatchTSMixer that forecasts some of its channels only (prediction_channel_indices) is not supported: take one that forecasts all.")


class PatchForecaster(TransformersForecaster):
    """Input `series` (B, C, T) with `observed`; C as `num_input_channels` says. Shorter contexts are filled up with missing points. Where the network gives a
    distribution, the forecast is that of samples, always of the same random numbers."""

    system = "time_series/patch-forecaster"
    config_class = PatchConfig

    @property
    def direct_horizon(self) -> int:
        return self.network.config.prediction_length

    @property
    def channels(self) -> int | None:
        return self.network.config.num_input_channels

    @property
    def levels(self) -> tuple[float, ...]:
        return () if self.network.distribution_output is None else DECILES

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        past = self._past(batch)
        if self.network.distribution_output is None:
            return Forecast(self.network(**past).prediction_outputs.transpose(1, 2)[..., :horizon])
        with seeded(0):
            samples = self.network.generate(**past).sequences  # (B, samples, H, C)
        return forecast_of(samples.transpose(2, 3)[..., :horizon])

    def loss_terms(self, batch: Batch) -> LossTerms:
        if self.network.distribution_output is not None:
            raise ConfigError("This network is trained by the likelihood of its distribution, which is not among the losses here. Take one with loss=mse in its arguments.")
        return super().loss_terms(batch)

    def tokens(self, batch: Batch) -> Tensor:
        """Features of the patches, channel by channel, (B, C * N, D)."""
        said = self.network.model(**self._past(self._newest(require_series(batch)))).last_hidden_state
        return said.flatten(1, 2)

    def _past(self, batch: Batch) -> dict[str, Tensor]:
        """What the network reads, time first, filled up to its context."""
        channels, lacking = self.network.config.num_input_channels, self.context_length - batch["series"].shape[2]
        if batch["series"].shape[1] != channels:
            raise ModelError(f"This network reads {channels} channels together, found {batch['series'].shape[1]}. Take one of that many.")
        series, observed = (F.pad(batch[key], (lacking, 0)).transpose(1, 2) for key in ("series", "observed"))
        return {"past_values": series, "past_observed_mask" if self.config.model_type == "patchtst" else "observed_mask": observed}


def _filled(values: Tensor, observed: Tensor) -> Tensor:
    """A series (T,) from its first observed point on, with straight lines over its gaps; one zero where nothing was observed."""
    if observed.all():
        return values
    seen = observed.nonzero()[:, 0].cpu().numpy()
    if not len(seen):
        return values.new_zeros(1)
    places = np.arange(seen[0], len(values))
    return torch.from_numpy(np.interp(places, seen, values.detach().cpu().numpy()[seen])).to(values)


FORECASTERS: Sequence[type[TransformersForecaster]] = (TimesFM, PatchForecaster)
"""All of them."""
