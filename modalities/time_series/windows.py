"""Windows of real series as a source of the trainer: history and future, split by time, cut out of the series when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.time_series.down_sampling import down_sampled
from modalities.time_series.frequency import token
from modalities.time_series.series import Item
from modalities.time_series.sets import open_sets
from trainer.errors import ConfigError, DataError, did_you_mean
from trainer.objective import Batch

MEASURED = 512
"""Windows of validation and test that are measured, at most."""
LEAST = 8
"""Steps of history that the first window of a series has at least."""


@dataclass(frozen=True)
class SeriesData:
    """Series of one's own for fine-tuning. Each is split by time: training, then validation, then test at its end."""

    path: str = ""
    """A file or folder of series, or a built-in collection, as in statsmodels:co2."""
    targets: tuple[str, ...] = ()
    """Columns that are forecast. Empty: all that are no covariates."""
    past_covariates: tuple[str, ...] = ()
    """Columns that are known for the past only."""
    future_covariates: tuple[str, ...] = ()
    """Columns that are known ahead: calendars, plans, prices."""
    test: float = 0.2
    """Share of each series, at its end, that only the last measurement sees."""
    validation: float = 0.1
    """Share before it that decides when to stop."""
    coarser: tuple[int, ...] = ()
    """Steps that become one, as in `--data.coarser 2 4`: the training part of each series is read at these rates, too, with the frequency that it then has. Empty: as it is only."""
    few: float = 1.0
    """Share of the training windows that is used, the newest of each series: few-shot with 0.05."""

    def __post_init__(self) -> None:
        if not (0 < self.test < 1 and 0 < self.validation < 1 and self.test + self.validation < 1):
            raise ConfigError(f"data.test and data.validation are shares above 0 that leave something to train on, found {self.test} and {self.validation}.")
        if any(factor < 2 for factor in self.coarser) or len(set(self.coarser)) < len(self.coarser):
            raise ConfigError(f"data.coarser holds different whole numbers of at least 2, found {list(self.coarser)}.")
        if not 0 < self.few <= 1:
            raise ConfigError(f"data.few is a share above 0 and at most 1, found {self.few}.")

    def items(self) -> list[Item]:
        """The series, with the columns named as covariates taken out of the channels. DataError for a column that is not there."""
        if not self.path:
            raise ConfigError("data.path is empty: say which series, as in `python -m modalities.time_series.finetune my.csv --model time_series/ttm-tiny-synth`.")
        return [self._item(item) for data in open_sets(self.path) for item in data.items]

    def _item(self, item: Item) -> Item:
        names = item.channels or (item.name,) * len(item.values)
        asked = (*self.targets, *self.past_covariates, *self.future_covariates)
        absent = next((name for name in asked if name not in names), None)
        if absent is not None:
            raise DataError(f"{item.name} of {self.path} has no column {absent!r}.{did_you_mean(absent, names)} It has: {', '.join(names)}.")
        rows = [names.index(name) for name in self.targets] or [i for i, name in enumerate(names) if name not in asked]
        picked = {key: item.values[[names.index(name) for name in getattr(self, key)]] for key in ("past_covariates", "future_covariates") if getattr(self, key)}
        for key, values in picked.items():
            if np.isnan(values).any():
                raise DataError(f"The {key} of {item.name} have missing values. Fill gaps in covariates first.")
        covariates = picked or {"past_covariates": None, "future_covariates": None}
        return replace(item, values=item.values[rows], channels=tuple(names[i] for i in rows) if item.channels else (), **covariates)


@dataclass(frozen=True)
class Span:
    """Where windows of a series lie: forecasts begin at `first` to `last`, both included."""

    item: int
    """Which series."""
    channel: int | None
    """Which channel; None: all together."""
    first: int
    """Earliest first step of a forecast."""
    last: int
    """Latest one."""

    def __len__(self) -> int:
        return self.last - self.first + 1


class SeriesWindows:
    """Windows as batches of this modality. A missing value is NaN in `values` and not observed in a batch."""

    in_memory = True
    held_out: "SeriesWindows"
    """Windows of the validation part."""
    test: "SeriesWindows"
    """Windows of the test part."""

    def __init__(self, items: Sequence[Item], spans: Sequence[Span], context: int, horizon: int, name: str) -> None:
        """DataError when there is no window."""
        self.items, self.spans, self.context, self.horizon, self.name = list(items), list(spans), context, horizon, name
        self.values = [np.ascontiguousarray(item.values, np.float32) for item in items]
        self.ends = np.cumsum([len(span) for span in spans])
        self.chosen: np.ndarray | None = None
        if not spans:
            raise DataError(f"No series of {name} is long enough: one needs {LEAST} steps of history and {horizon} of future in each part. Give longer series, or a smaller horizon.")

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.chosen is None else len(self.chosen)

    def thinned(self, most: int) -> "SeriesWindows":
        """At most so many of the windows, spread evenly."""
        if len(self) > most:
            self.chosen = np.linspace(0, len(self) - 1, most).round().astype(np.int64)
        return self

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.fetch([index]).items()}

    def fetch(self, indices: Sequence[int], keys: np.ndarray | None = None) -> Batch:
        """Windows by their numbers; `keys` change nothing: there is no augmentation."""
        indices = np.asarray(indices) if self.chosen is None else self.chosen[np.asarray(indices)]
        places = np.searchsorted(self.ends, indices, side="right")
        starts = [self.spans[p].last + 1 - (int(self.ends[p]) - int(i)) for p, i in zip(places, indices)]
        channels = len(self._rows(self.spans[places[0]]))
        whole = np.full((len(places), channels, self.context + self.horizon), np.nan, np.float32)
        for row, (place, start) in enumerate(zip(places, starts)):
            begin = max(0, start - self.context)
            whole[row, :, self.context - (start - begin) :] = self._rows(self.spans[place])[:, begin : start + self.horizon]
        tensors = torch.from_numpy(whole)
        known = ~tensors.isnan()
        filled = tensors.nan_to_num_(0.0)
        split = {"series": filled[..., : self.context], "observed": known[..., : self.context], "target": filled[..., self.context :], "target_observed": known[..., self.context :]}
        frequency = torch.tensor([token(self.items[self.spans[p].item].frequency) for p in places])
        return {**split, "frequency": frequency, **self._covariates(places, starts)}

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        return {"name": self.name, "samples": len(self), "series": len(self.items), "licence": "that of the data"}

    def _rows(self, span: Span) -> np.ndarray:
        """(C, T) of what a window of a span holds."""
        values = self.values[span.item]
        return values if span.channel is None else values[span.channel : span.channel + 1]

    def _covariates(self, places: np.ndarray, starts: Sequence[int]) -> Batch:
        """What the series have of them, zeros before their beginning."""
        found: Batch = {}
        for key, ahead in (("past_covariates", 0), ("future_covariates", self.horizon)):
            if getattr(self.items[0], key) is None:
                continue
            rows = [getattr(self.items[self.spans[p].item], key) for p in places]
            whole = np.zeros((len(rows), len(rows[0]), self.context + ahead), np.float32)
            for row, (values, start) in enumerate(zip(rows, starts)):
                begin = max(0, start - self.context)
                whole[row, :, self.context - (start - begin) :] = values[:, begin : start + ahead]
            found[key] = torch.from_numpy(whole)
        return found


def split_windows(data: SeriesData, context: int, horizon: int, together: bool) -> SeriesWindows:
    """Training windows, with `held_out` for validation and `test`. Series that are too short are left out.

    `together`: a window holds all channels; otherwise each channel is a series of its own. Down-sampled series stand behind the others in the
    `items` of training windows. DataError when nothing is left, also of the series at a coarser rate, or series of different numbers of
    channels shall be mixed.
    """
    items = data.items()
    if together and len({len(item.values) for item in items}) > 1:
        raise DataError(f"The series of {data.path} have {' and '.join(map(str, sorted({len(i.values) for i in items})))} channels. To mix channels, each must have the same ones.")
    parts: dict[str, list[Span]] = {"training": [], "validation": [], "test": []}
    coarse: list[Item] = []
    unfit = set(data.coarser)
    for number, item in enumerate(items):
        length = item.length
        test = min(length - max(horizon, round(length * data.test)), length - horizon)
        validation = test - max(horizon, round(length * data.validation))
        training = _training(validation, context, horizon, data.few)
        if training is None:
            continue
        for part, (begin, end) in {"training": training, "validation": (validation, test - horizon), "test": (test, length - horizon)}.items():
            parts[part] += _spans(item, number, begin, end, together)
        for factor in data.coarser:
            training = _training(validation // factor, context, horizon, data.few)
            if training is not None:
                unfit.discard(factor)
                coarse.append(down_sampled(item, factor, validation))
                parts["training"] += _spans(coarse[-1], len(items) + len(coarse) - 1, *training, together)
    if unfit and parts["training"]:
        raise DataError(f"No series of {data.path} is long enough to be down-sampled by {min(unfit)}: a window needs {LEAST} steps of history and {horizon} of future. Take smaller factors in data.coarser.")
    name = data.path
    rates = f", and down-sampled by {' and '.join(map(str, data.coarser))}" if data.coarser else ""
    windows = SeriesWindows([*items, *coarse], parts["training"], context, horizon, name + rates)
    windows.held_out = SeriesWindows(items, parts["validation"], context, horizon, f"{name}, validation").thinned(MEASURED)
    windows.test = SeriesWindows(items, parts["test"], context, horizon, f"{name}, test").thinned(MEASURED)
    return windows


def _training(length: int, context: int, horizon: int, few: float) -> tuple[int, int] | None:
    """Where forecasts of a training part of so many points begin, the first and the last step; None where it is too short."""
    last = length - horizon
    first = min(context, max(LEAST, last // 3))
    return None if last < first else (last + 1 - max(1, round((last - first + 1) * few)), last)


def _spans(item: Item, number: int, first: int, last: int, together: bool) -> list[Span]:
    """The spans of a series, one for all channels together or one for each that has any value."""
    channels = [None] if together else [channel for channel in range(len(item.values)) if np.isfinite(item.values[channel]).any()]
    return [Span(number, channel, first, last) for channel in channels]
