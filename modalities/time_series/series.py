"""Series as they lie on disk or come with a library: values, gaps, time stamps, names."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modalities.time_series.frequency import horizon as usual_horizon
from modalities.time_series.frequency import seasonality


@dataclass(frozen=True)
class Item:
    """One series, of one or several channels."""

    name: str
    """What it is called in tables and messages."""
    values: np.ndarray
    """(C, T) floats, NaN is missing; perhaps a view of a large or mapped array, which nothing writes to."""
    channels: tuple[str, ...] = ()
    """Names of the channels; empty when there is only one without a name."""
    times: np.ndarray | None = None
    """(T,) datetime64, rising; None when nothing is known."""
    frequency: str | None = None
    """Sampling interval as `modalities.time_series.frequency` spells it; None when it is not known or irregular."""
    past_covariates: np.ndarray | None = None
    """(P, T), known for the past only."""
    future_covariates: np.ndarray | None = None
    """(F, T + what is known beyond), known ahead."""
    static: np.ndarray | None = None
    """(S,) facts about the series."""
    label: str | None = None
    """Its class, where a set has classes."""

    @property
    def length(self) -> int:
        """Steps."""
        return self.values.shape[1]

    def channel_name(self, channel: int) -> str:
        """What a channel is called in tables."""
        return f"{self.name}/{self.channels[channel]}" if self.channels else self.name if len(self.values) == 1 else f"{self.name}/{channel}"


@dataclass(frozen=True)
class SeriesSet:
    """Series that belong together: a file, or a data set that comes with a library."""

    name: str
    """What it is called."""
    items: tuple[Item, ...]
    """Its series."""
    horizon: int | None = None
    """Steps ahead it is usually forecast. None: what is usual for its frequency."""
    about: dict[str, Any] = field(default_factory=dict)
    """Facts for logs and cards: source, licence, notes."""

    @property
    def frequency(self) -> str | None:
        """That of all its series; None when they differ or it is not known."""
        found = {item.frequency for item in self.items}
        return found.pop() if len(found) == 1 else None

    @property
    def season(self) -> int:
        """Steps of its usual season."""
        return seasonality(self.frequency)

    @property
    def steps_ahead(self) -> int:
        """`horizon`, or what is usual."""
        return self.horizon or usual_horizon(self.frequency)
