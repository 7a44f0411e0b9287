"""What every forecasting model is: a context of any length in, a forecast of any horizon out, in the user's units.

A batch holds

- `series` (B, C, T) float: the past of C channels, oldest first; 0 where nothing was observed,
- `observed` (B, C, T) bool: False where a value is missing,
- `frequency` (B,) int64, optional: the token of the sampling interval (`modalities.time_series.frequency`),
- `past_covariates` (B, P, T), optional: known for the past only,
- `future_covariates` (B, F, T + H), optional: known for past and future,
- `static` (B, S), optional: facts about a series,
- for training `target` (B, C, H) and `target_observed` (B, C, H): the future.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modalities.common.model import Model
from modalities.common.preprocess import Preprocess
from modalities.time_series.preprocess import SeriesPreprocess
from trainer.errors import ConfigError, DataError, shorten
from trainer.objective import Batch

LONGEST = 100_000
"""Most steps that are forecast. More is a mistake: a roll-out has long lost every meaning there."""


ALONG_TIME = ("series", "observed", "past_covariates", "future_covariates")
"""What of a batch begins with the oldest point of the past and has time as its last axis."""


@dataclass(frozen=True)
class Forecast:
    """What a model says of the future, in the units of the series."""

    point: Tensor
    """(B, C, H)."""
    quantiles: Tensor | None = None
    """(B, Q, C, H), for the `levels`; None for a model of points."""
    levels: tuple[float, ...] = ()
    """Probability of each quantile, rising."""

    def quantile(self, level: float) -> Tensor:
        """(B, C, H): the quantile of a level, linear between the neighbouring ones. ConfigError outside of them."""
        if not self.levels or not self.levels[0] <= level <= self.levels[-1]:
            known = f"{self.levels[0]} to {self.levels[-1]}" if self.levels else "none: the model forecasts points"
            raise ConfigError(f"There is no quantile of level {level}. Known: {known}.")
        above = next(i for i, known in enumerate(self.levels) if known >= level)
        if self.levels[above] == level:
            return self.quantiles[:, above]
        low, high = self.levels[above - 1], self.levels[above]
        return torch.lerp(self.quantiles[:, above - 1], self.quantiles[:, above], (level - low) / (high - low))


@dataclass(frozen=True)
class LossTerms:
    """What a model says of the future of a training batch, and the truth, on the scale that its loss is computed on."""

    point: Tensor
    """(B, C, H)."""
    target: Tensor
    """(B, C, H), anything where it is not observed."""
    observed: Tensor
    """(B, C, H) bool."""
    quantiles: Tensor | None = None
    """(B, Q, C, H)."""
    levels: tuple[float, ...] = ()
    """Their probabilities."""
    scale: Tensor | float = 1.0
    """What errors on this scale are multiplied by to be in the user's units, broadcast to (B, C, H)."""


class Forecaster(Model, ABC):
    """Base of the forecasting models. A subclass defines `direct`, `context_length`, `direct_horizon`, and `levels` where it has quantiles."""

    input_key: ClassVar[str] = "series"
    graph_input: ClassVar[str] = "in any unit, NaN where a value is missing; the sampling interval counts as unknown"
    frozen_parts: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of the weights that fine-tuning may leave as they are: the backbone."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Most points of the past that the model reads; of a longer past the newest count."""

    @property
    @abstractmethod
    def direct_horizon(self) -> int:
        """Most steps that `direct` gives at once."""

    @property
    def channels(self) -> int | None:
        """How many channels `series` must have; None for any number."""
        return None

    @property
    def levels(self) -> tuple[float, ...]:
        """Probabilities of the quantiles that it forecasts, rising; none for a model of points."""
        return ()

    def reads(self, key: str) -> bool:
        """Whether the model reads `past_covariates` or `future_covariates`."""
        return False

    @abstractmethod
    def direct(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of `horizon` <= `direct_horizon` steps in the units of the series; a checked batch of at most `context_length` points."""

    def loss_terms(self, batch: Batch) -> LossTerms:
        """Forecast and truth of a training batch, on the scale of the model's loss, with gradient."""
        raise ConfigError(f"{type(self).__name__} is not trained by forecasting.")

    @torch.inference_mode()
    def forecast(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of any horizon, in the units of the series.

        Steps beyond `direct_horizon` come by roll-out: the forecast (its median, where there are quantiles) is taken for the past and the
        model asked again. Quantiles there are those of the last question, hence too narrow. Past covariates are not known after the
        context and go on with their last value. A channel without a single observed value in its
        context is forecast as NaN.
        DataError for a batch that breaks the contract, ConfigError for a horizon below 1 or above `LONGEST`.
        """
        batch = self._newest(self.checked(batch, horizon))
        blank, parts, done = ~batch["observed"].any(2, keepdim=True), [], 0
        while done < horizon:
            if parts:
                batch = self._newest(_advanced(batch, parts[-1].point))
            step = min(horizon - done, self.direct_horizon)
            parts.append(self.direct(_until(batch, step), step))
            done += step
        return _joined(parts, blank)

    def checked(self, batch: Batch, horizon: int) -> Batch:
        """The batch, once it is as the contract says; zeros where nothing was observed."""
        require_horizon(horizon)
        batch = require_series(batch)
        for key, length in (("past_covariates", batch["series"].shape[2]), ("future_covariates", batch["series"].shape[2] + horizon)):
            if key in batch:
                _require_covariates(batch, key, length, horizon)
        return batch

    def default_preprocess(self) -> Preprocess:
        """Series as they are: every model scales inside."""
        return SeriesPreprocess()

    def input_in_words(self) -> str:
        """What the network reads, for its card."""
        return f"`series`: any number of channels in any unit, the last {self.context_length:,} points; NaN where a value is missing"

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """The forecast of `direct_horizon` steps. Without `observed`, NaN in `series` is missing."""
        observed = batch.get("observed")
        observed = ~batch["series"].isnan() if observed is None else observed
        said = self.direct({**batch, "series": torch.where(observed, batch["series"], 0.0), "observed": observed}, self.direct_horizon)
        return {"point": said.point} | ({} if said.quantiles is None else {"quantiles": said.quantiles})

    def graph_shape(self) -> tuple[int, ...]:
        """A whole context; of a model that takes any number of channels, one channel."""
        return (self.channels or 1, self.context_length)

    def _newest(self, batch: Batch) -> Batch:
        """The newest `context_length` points of the past, and all that is known of the future."""
        begin = max(0, batch["series"].shape[2] - self.context_length)
        return {key: value[:, :, begin:] if key in ALONG_TIME else value for key, value in batch.items()} if begin else batch


def require_horizon(horizon: int) -> None:
    """ConfigError unless it is a whole number from 1 to LONGEST."""
    if not isinstance(horizon, int) or isinstance(horizon, bool) or not 1 <= horizon <= LONGEST:
        raise ConfigError(f"A horizon is a whole number of steps from 1 to {LONGEST:,}, found {shorten(horizon)}.")


def require_series(batch: Batch) -> Batch:
    """The batch with `observed` and zeros where nothing was observed. DataError unless `series` (B, C, T) is finite where it was observed.

    Without `observed`, NaN is missing.
    """
    series = batch.get("series")
    if not isinstance(series, Tensor) or series.ndim != 3 or not series.is_floating_point() or 0 in series.shape:
        found = f"{series.dtype} of shape {tuple(series.shape)}" if isinstance(series, Tensor) else shorten(series)
        raise DataError(f"A batch needs `series`, floating point numbers of shape (B, C, T) with at least one point; found {found}.")
    observed = batch.get("observed")
    if observed is None:
        observed = ~series.isnan()
    elif observed.shape != series.shape or observed.dtype != torch.bool:
        raise DataError(f"`observed` must be bool of the shape of `series`, {tuple(series.shape)}; found {observed.dtype} of shape {tuple(observed.shape)}.")
    series = torch.where(observed, series, 0.0)
    if not torch.isfinite(series.sum()) and not torch.isfinite(series).all():  # the sum is the quicker look
        sample, channel, time = (~torch.isfinite(series)).nonzero()[0].tolist()
        raise DataError(
            f"Sample {sample}, channel {channel}, point {time} of `series` is {float(series[sample, channel, time])}. "
            "Mark missing values in `observed`; replace infinite ones."
        )
    return {**batch, "series": series, "observed": observed}


def _require_covariates(batch: Batch, key: str, length: int, horizon: int) -> None:
    values, series = batch[key], batch["series"]
    if values.ndim != 3 or values.shape[0] != series.shape[0]:
        raise DataError(f"`{key}` must have the shape ({series.shape[0]}, covariates, {length}), found {tuple(values.shape)}.")
    if values.shape[2] < length or (key == "past_covariates" and values.shape[2] > length):
        lacks = f"; they end {length - values.shape[2]} steps before the end of the horizon of {horizon}" if key == "future_covariates" else ""
        raise DataError(f"`{key}` has {values.shape[2]} points, expected {length}{lacks}.")
    if not torch.isfinite(values[:, :, :length]).all():
        raise DataError(f"`{key}` holds NaN or infinity. Fill gaps in covariates before they are given to a model.")


def _advanced(batch: Batch, point: Tensor) -> Batch:
    """The batch some steps later, with what was forecast in the place of what happened."""
    later = {"series": torch.cat([batch["series"], point], 2), "observed": torch.cat([batch["observed"], torch.ones_like(point, dtype=torch.bool)], 2)}
    if "past_covariates" in batch:
        last = batch["past_covariates"][:, :, -1:]
        later["past_covariates"] = torch.cat([batch["past_covariates"], last.expand(-1, -1, point.shape[2])], 2)
    return {**batch, **later}


def _until(batch: Batch, step: int) -> Batch:
    """The batch with covariates that end with the next `step` steps."""
    if "future_covariates" not in batch:
        return batch
    return {**batch, "future_covariates": batch["future_covariates"][:, :, : batch["series"].shape[2] + step]}


def _joined(parts: list[Forecast], blank: Tensor) -> Forecast:
    """Forecasts one after another; NaN for `blank` (B, C, 1) channels."""
    point, quantiles = parts[0].point, parts[0].quantiles
    if len(parts) > 1:
        point = torch.cat([part.point for part in parts], 2)
        quantiles = None if quantiles is None else torch.cat([part.quantiles for part in parts], 3)
    if blank.any():
        point = point.masked_fill(blank, torch.nan)
        quantiles = None if quantiles is None else quantiles.masked_fill(blank[:, None], torch.nan)
    return Forecast(point, quantiles, parts[0].levels)
