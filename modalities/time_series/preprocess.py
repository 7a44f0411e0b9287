"""Time series preprocessing: arrays, lists and tables with gaps -> a batch; stored with a checkpoint."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from modalities.common.preprocess import Preprocess
from modalities.time_series.frequency import normalise, token
from trainer.errors import CheckpointError, ConfigError, DataError, did_you_mean, shorten
from trainer.objective import Batch

LARGEST = float(np.finfo(np.float32).max)
KEYS = ("series", "past_covariates", "future_covariates", "static", "frequency")
"""What a mapping as raw input may hold."""


@dataclass(frozen=True)
class SeriesPreprocess(Preprocess):
    """Raw series -> batch. NaN (and None) is a missing value; scaling is the model's own affair.

    One series is an array (T,) or (C, T), a list of numbers, or a table (pandas) with a row per time; several are a list of such or an
    array (B, C, T). Series of different lengths are put into one batch with missing values before the shorter ones. A mapping gives
    covariates, too: `series`, `past_covariates` (P, T), `future_covariates` (F, T + H), `static` (S,), `frequency` ("15min"), each with
    one more axis or as a list for several series. Columns of a table that are named as covariates here are taken as such; rows at its
    end without any value of a target are the future then.
    """

    type: ClassVar[str] = "series"

    context_length: int | None = None
    """Of a longer past the newest points that are kept. Null: all, and the model takes what it reads."""
    frequency: str | None = None
    """Sampling interval of series that do not say theirs: 15min, h, D, W, ME, ... Null: unknown."""
    targets: tuple[str, ...] = ()
    """Names of the channels, where the model was trained on certain ones. Of tables these columns are taken."""
    past_covariates: tuple[str, ...] = ()
    """Names of the covariates that are known for the past only."""
    future_covariates: tuple[str, ...] = ()
    """Names of the covariates that are known for past and future."""

    def __post_init__(self) -> None:
        if self.context_length is not None and self.context_length < 1:
            raise ConfigError(f"preprocess.context_length must be at least 1 (or null), found {self.context_length}.")
        if self.frequency is not None:
            try:
                normalise(self.frequency)
            except DataError as error:
                raise ConfigError(f"preprocess.frequency: {error}") from error
        names = [*self.targets, *self.past_covariates, *self.future_covariates]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"The preprocessing names {twice!r} twice among targets and covariates.")

    def adapted(self, input_shape: tuple[int, ...]) -> "SeriesPreprocess":
        """The same: it fits every forecasting model."""
        return self

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        """Raise CheckpointError when a model reads another number of channels than there are targets."""
        if self.targets and input_shape and input_shape[0] != len(self.targets):
            raise CheckpointError(f"{where}: its preprocessing names {len(self.targets)} channels, and its model reads {input_shape[0]}. Use the preprocessor_config.json that came with it.")

    def __call__(self, raw: Any) -> Batch:
        """{"series" (B, C, T) float32, "observed" (B, C, T) bool, "frequency" (B,), and covariates where there are some}.

        DataError for what is empty, no number, infinite, or has a channel without a single value; covariates must have no gaps.
        """
        samples = [self._sample(one, where) for one, where in _several(raw)]
        channels = {sample["series"].shape[0] for sample in samples}
        if len(channels) > 1:
            raise DataError(f"The series of one batch must have the same number of channels, found {' and '.join(map(str, sorted(channels)))}. Give them one by one.")
        batch = _stacked(samples)
        batch["observed"] = ~batch["series"].isnan()
        batch["series"] = batch["series"].nan_to_num(0.0)
        return batch

    def _sample(self, raw: Any, where: str) -> dict[str, np.ndarray]:
        if not isinstance(raw, Mapping):
            raw = self._of_table(raw, where) if _is_table(raw) else {"series": raw}
        unknown = next((key for key in raw if key not in KEYS), None)
        if unknown is not None or "series" not in raw:
            raise DataError(f"{where} as a mapping may hold {', '.join(KEYS)} and must hold series; found {shorten(unknown if unknown is not None else list(raw))}.{did_you_mean(str(unknown), KEYS)}")
        series = _numbers(raw["series"], where, 2)
        empty = np.isnan(series).all(1)
        if empty.any():
            raise DataError(f"Channel {int(empty.argmax())} of {where} has no value at all: nothing can be said of it. Leave it out.")
        sample = {"series": series, "frequency": np.int64(token(raw.get("frequency", self.frequency)))}
        for key in ("past_covariates", "future_covariates", "static"):
            if raw.get(key) is not None:
                sample[key] = _numbers(raw[key], f"{key} of {where}", 1 if key == "static" else 2)
                if np.isnan(sample[key]).any():
                    raise DataError(f"{key} of {where} has missing values. Fill gaps in covariates first.")
        length, kept = series.shape[1], min(series.shape[1], self.context_length or series.shape[1])
        if "past_covariates" in sample and sample["past_covariates"].shape[1] != length:
            raise DataError(f"past_covariates of {where} have {sample['past_covariates'].shape[1]} points and the series {length}.")
        if "future_covariates" in sample and sample["future_covariates"].shape[1] <= length:
            raise DataError(f"future_covariates of {where} end after {sample['future_covariates'].shape[1]} points, and the series after {length}: they must go on into the future.")
        for key in ("series", "past_covariates", "future_covariates"):
            if key in sample:
                sample[key] = sample[key][:, length - kept :]
        return sample

    def _of_table(self, table: Any, where: str) -> dict[str, Any]:
        """The parts of a pandas table with a row per time."""
        if table.__class__.__name__ == "Series":
            return {"series": table.to_numpy()}
        covariates = (*self.past_covariates, *self.future_covariates)
        targets = list(self.targets) or [name for name in table.columns if name not in covariates]
        absent = next((name for name in (*targets, *covariates) if name not in table.columns), None)
        if absent is not None:
            raise DataError(f"{where} has no column {absent!r}, which the model was trained with.{did_you_mean(absent, map(str, table.columns))}")
        values = [_numbers(table[name].to_numpy(), f"column {name!r} of {where}", 1) for name in targets]
        if not values:
            raise DataError(f"{where} has no column that is a target.")
        series = np.stack(values)
        known = (~np.isnan(series)).any(0).nonzero()[0]
        length = int(known[-1]) + 1 if self.future_covariates and len(known) else series.shape[1]
        parts: dict[str, Any] = {"series": series[:, :length]}
        for key, names, end in (("past_covariates", self.past_covariates, length), ("future_covariates", self.future_covariates, len(table))):
            if names:
                parts[key] = np.stack([_numbers(table[name].to_numpy()[:end], f"column {name!r} of {where}", 1) for name in names])
        return parts


def _is_table(raw: Any) -> bool:
    """Whether it is a table or column of pandas; that library is not imported for the question."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(raw, (pandas.DataFrame, pandas.Series))


def _several(raw: Any) -> list[tuple[Any, str]]:
    """Each series of the input with what errors call it."""
    if isinstance(raw, Mapping):
        return _of_mapping(raw)
    if isinstance(raw, (list, tuple)):
        if not raw:
            raise DataError("There is no series: the list is empty. Expected at least one.")
        if all(value is None or (np.isscalar(value) and not isinstance(value, str)) for value in raw):
            return [(raw, "the series")]
        return [(one, f"series {i} of the batch") for i, one in enumerate(raw)]
    if isinstance(raw, (np.ndarray, Tensor)) and raw.ndim == 3:
        return [(one, f"series {i} of the batch") for i, one in enumerate(raw)] or _several([])
    return [(raw, "the series")]


def _of_mapping(raw: Mapping) -> list[tuple[Any, str]]:
    """A mapping of one series, or one of several as a mapping for each."""
    series = raw.get("series")
    several = _several(series) if series is not None and not _is_table(series) else []
    if len(several) < 2 and getattr(series, "ndim", 1) != 3:
        return [(raw, "the series")]
    wrong = next((k for k, v in raw.items() if not isinstance(v, str) and v is not None and len(v) != len(several)), None)
    if wrong is not None:
        raise DataError(f"There are {len(several)} series and {len(raw[wrong])} of {wrong}. Give one for each.")
    return [({k: v if isinstance(v, str) or v is None else v[i] for k, v in raw.items()}, where) for i, (_, where) in enumerate(several)]


def _numbers(raw: Any, where: str, axes: int) -> np.ndarray:
    """Float32 with so many axes, (C, T) or (S,); NaN stays. DataError says what is wrong and where."""
    try:
        values = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
        if values.dtype == object:
            values = np.array([[math.nan if v is None else float(v) for v in row] for row in np.atleast_2d(values)]).reshape(values.shape)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"found {values.dtype}")
        values = values.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} must be numbers of one length in each channel, found {shorten(raw)} ({error}).") from error
    if values.ndim == 1 and axes == 2:
        values = values[None]
    if values.ndim != axes or 0 in values.shape:
        raise DataError(f"{where} must have {'the shape (C, T), channels first,' if axes == 2 else 'one axis'} with at least one point; found the shape {values.shape}.")
    too_large = np.abs(values) > LARGEST
    if too_large.any():
        place = tuple(map(int, np.argwhere(too_large)[0]))
        raise DataError(f"Point {place[-1]} of {f'channel {place[0]} of ' if axes == 2 and len(values) > 1 else ''}{where} is {values[place]}. Expected finite numbers within float32, NaN where a value is missing.")
    return values.astype(np.float32)


def _stacked(samples: Sequence[dict[str, np.ndarray]]) -> Batch:
    """Samples as one batch; NaN before shorter series, zeros before shorter covariates. DataError where only some have a covariate."""
    batch: Batch = {}
    longest = max(sample["series"].shape[1] for sample in samples)
    for key in dict.fromkeys(key for sample in samples for key in sample):
        if any(key not in sample for sample in samples):
            raise DataError(f"Some series of the batch have {key} and others have none. Give all of them or none.")
        values = [sample[key] for sample in samples]
        if key == "series" or key.endswith("covariates"):
            fill = math.nan if key == "series" else 0.0
            values = [np.pad(v, ((0, 0), (longest - s["series"].shape[1], 0)), constant_values=fill) for v, s in zip(values, samples)]
        if len({np.shape(v) for v in values}) > 1:
            raise DataError(f"{key} differ in shape between the series of the batch: {' and '.join(sorted({str(np.shape(v)) for v in values}))}.")
        batch[key] = torch.from_numpy(np.stack(values))
    return batch
