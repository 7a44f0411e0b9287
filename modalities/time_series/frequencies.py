"""What a frequency says of a series: one name whatever pandas calls it, the season, the usual horizon, the token of a model.

Names are those of pandas from 2.2 on, without their anchors: s, min, h, D, B, W, M, Q, Y, with a multiple before them (15min). Older ones
(T, H, S, A, L, ...), those that say where a period begins or ends (MS, ME, QE-DEC, YS-JAN, W-SUN, BME) and words (hourly) mean the same.
"""

import re
from dataclasses import dataclass
from math import gcd

import numpy as np

from trainer.errors import DataError, did_you_mean, shorten

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "D": 86400.0, "B": 86400.0 * 7 / 5, "W": 604800.0, "M": 2629746.0, "Q": 3 * 2629746.0, "Y": 31556952.0}
"""Unit -> its mean length in seconds."""
SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "B": 5, "W": 1, "M": 12, "Q": 4, "Y": 1}
"""Steps in a season for the multiple 1, as GluonTS counts them: the lag of the seasonal naive forecast and of MASE."""
WORDS = {
    "secondly": "s", "minutely": "min", "hourly": "h", "daily": "D", "weekly": "W", "monthly": "M", "quarterly": "Q", "yearly": "Y", "annual": "Y", "annually": "Y",
    "half_hourly": "30min", "4_seconds": "4s", "10_minutes": "10min", "quarter_hourly": "15min",
}  # fmt: skip
"""What people and Monash's files call them."""
ALIASES = {"S": "s", "T": "min", "H": "h", "A": "Y", "C": "B"}
"""Older names of pandas."""
TOKENS = {"min": 1, "2min": 2, "5min": 3, "10min": 4, "15min": 5, "30min": 6, "h": 7, "D": 8, "W": 9, "M": 10, "Q": 11, "Y": 12, "B": 13, "s": 14}
"""Frequency -> its number for models that read it. The first nine are TTM's; 0 is any other frequency, or an unknown one."""
UNKNOWN = 0
VOCABULARY = 15
"""Numbers there are, with 0."""
HORIZONS = {"s": 60, "min": 48, "h": 48, "D": 30, "B": 30, "W": 8, "M": 12, "Q": 8, "Y": 6}
"""Usual steps ahead, those of GIFT-Eval's short horizons and of M4 (quarterly, yearly)."""


@dataclass(frozen=True)
class Frequency:
    """A multiple of a unit: 15 min, 1 M."""

    multiple: int
    unit: str
    """A key of UNITS."""

    def __str__(self) -> str:
        return f"{self.multiple if self.multiple > 1 else ''}{self.unit}"

    @property
    def season(self) -> int:
        """Steps in a season: base / multiple where that divides, else 1."""
        base = SEASONS[self.unit]
        return base // self.multiple if base % self.multiple == 0 else 1

    @property
    def token(self) -> int:
        """The number that models read."""
        return TOKENS.get(str(self), UNKNOWN)

    @property
    def horizon(self) -> int:
        """Usual steps ahead."""
        return HORIZONS[self.unit]

    @property
    def seconds(self) -> float:
        """Mean length of a step."""
        return self.multiple * UNITS[self.unit]


def frequency(text: str) -> Frequency:
    """A frequency from its name, in old or new spelling. DataError for what is none."""
    spelled = str(text).strip()
    found = re.fullmatch(r"(\d*)\s*([A-Za-z_]+)(?:-\w+)?", WORDS.get(spelled.lower(), spelled))
    if found is not None:
        name = found[2]
        name = ALIASES.get(name, name)
        for unit in (name, name.removesuffix("S"), name.removesuffix("E"), name.removeprefix("B").removesuffix("S").removesuffix("E")):
            if (unit := ALIASES.get(unit, unit)) in UNITS:
                return _reduced(int(found[1] or 1), unit)
        lowered = {"min": "min", "d": "D", "w": "W", "m": "M", "q": "Q", "y": "Y", "b": "B", "a": "Y"}.get(name.lower())
        if lowered:
            return _reduced(int(found[1] or 1), lowered)
    raise DataError(f"{shorten(text)} is no frequency; expected one of {', '.join(UNITS)}, perhaps with a multiple (15min).{did_you_mean(str(text), (*UNITS, *WORDS))}")


def _reduced(multiple: int, unit: str) -> Frequency:
    """The largest unit that says it: 60min is h, 24h is D, 3M is Q."""
    if multiple < 1:
        raise DataError(f"A frequency has a multiple of at least 1, found {multiple}{unit}.")
    for small, many, large in (("s", 60, "min"), ("min", 60, "h"), ("h", 24, "D"), ("D", 7, "W"), ("M", 12, "Y"), ("M", 3, "Q"), ("Q", 4, "Y")):
        if unit == small and multiple % many == 0:
            multiple, unit = multiple // many, large
    return Frequency(multiple, unit)


def infer(times: np.ndarray) -> Frequency | None:
    """The frequency of sorted time stamps (T,) datetime64, gaps allowed; None when no step fits all of them.

    Months, quarters and years are told by their months; else the greatest common divisor of the differences is the step. Days without a
    Saturday and Sunday are business days.
    """
    if len(times) < 3:
        return None
    months = times.astype("datetime64[M]").astype(np.int64)
    steps = np.diff(months)
    within = (times - times.astype("datetime64[M]")).astype("timedelta64[s]").astype(np.int64)
    if (steps >= 1).all() and (np.ptp(within) == 0 or (within > 27 * 86400 - 1).all()):  # one day of the month, or its last days
        return _reduced(int(np.gcd.reduce(steps)), "M")
    seconds = np.diff(times.astype("datetime64[s]").astype(np.int64))
    if (seconds <= 0).any():
        return None
    step = int(np.gcd.reduce(seconds))
    if step % 86400 == 0:
        days = times.astype("datetime64[D]").astype(np.int64)
        if step == 86400 and len(times) > 5 and not np.isin((days + 3) % 7, (5, 6)).any():  # day 0 of the epoch was a Thursday
            return Frequency(1, "B")
        return _reduced(step // 86400, "D")
    if np.median(seconds) > 50 * step:  # hardly two neighbours are one step apart: irregular
        return None
    unit = next(u for u in ("h", "min", "s") if step % UNITS[u] == 0)
    return _reduced(step // int(UNITS[unit]), unit)


def common_step(multiples: list[int]) -> int:
    """The greatest step that all are multiples of."""
    return gcd(*multiples)
