"""Sampling intervals: one spelling for every alias, the token that a model is given, and the usual season."""

import re

from trainer.errors import DataError, did_you_mean, shorten

TOKENS = {"oov": 0, "min": 1, "2min": 2, "5min": 3, "10min": 4, "15min": 5, "30min": 6, "h": 7, "D": 8, "W": 9, "ME": 10, "QE": 11, "YE": 12, "B": 13, "s": 14}
"""Interval -> token of the resolution prefix of TTM; the others of the zoo read the same tokens. "oov" is every other interval. The tokens
from 10 on are this project's: to a model with fewer of them, as the official ones are, they are oov."""

UNKNOWN = TOKENS["oov"]
"""Token of an interval that is not in the table, or not known."""

_ALIASES = {
    "S": "s", "SEC": "s", "T": "min", "MINUTE": "min", "MINUTES": "min", "H": "h", "HOUR": "h", "HOURLY": "h", "HOURS": "h", "DAY": "D", "DAILY": "D", "DAYS": "D",
    "WEEK": "W", "WEEKLY": "W", "M": "ME", "MS": "ME", "BM": "ME", "BME": "ME", "BMS": "ME", "MONTH": "ME", "MONTHLY": "ME", "Q": "QE", "QS": "QE", "BQ": "QE", "BQE": "QE", "BQS": "QE",
    "QUARTERLY": "QE", "A": "YE", "Y": "YE", "YS": "YE", "AS": "YE", "BA": "YE", "BYE": "YE", "BY": "YE", "BYS": "YE", "YEAR": "YE", "YEARLY": "YE", "DAYLY": "D", "MIN": "min",
    "D": "D", "W": "W", "B": "B", "ME": "ME", "QE": "QE", "YE": "YE", "L": "ms",
}  # fmt: skip
"""Old and new names of pandas, and words, in capitals -> the one spelling used here."""

_COARSER = {"s": (60, "min"), "min": (60, "h"), "h": (24, "D"), "D": (7, "W")}
"""Unit -> how many of it are the next one."""

_CALENDAR = {"ME": ((12, "YE"), (3, "QE")), "QE": ((4, "YE"),), "B": ((5, "W"),)}
"""Unit -> how many of it are one of another, the longest first, for series that are down-sampled. Files that say 3ME keep that name."""

_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "B": 5, "W": 1, "ME": 12, "QE": 4, "YE": 1}
"""Steps of the usual season, as GluonTS has them: the hour of seconds, the day of minutes and hours, the year of months and quarters."""

_HORIZONS = {"s": 60, "min": 48, "h": 48, "D": 30, "B": 30, "W": 8, "ME": 12, "QE": 8, "YE": 6}
"""Usual steps ahead: those of GIFT-Eval's short horizons, and of M4 for quarters and years."""


def normalise(frequency: str) -> str:
    """ "H", "60T", "hourly" -> "h"; anchors ("W-SUN", "QS-OCT") fall away. DataError for a word that is no interval."""
    match = re.fullmatch(r"\s*(\d*)\s*([A-Za-z]+)(-[A-Za-z]+)?\s*", frequency) if isinstance(frequency, str) else None
    if match is None or (match[1] and int(match[1]) == 0):
        raise DataError(f"{shorten(frequency)} is no sampling interval. Expected one such as 15min, h, D, W, ME (months), QE or YE.")
    count, word = int(match[1] or 1), match[2]
    unit = word if word in ("ms", "min", "s", "h") else _ALIASES.get(word.upper())
    if unit is None:
        raise DataError(f"{shorten(frequency)} is no sampling interval.{did_you_mean(word, [*_ALIASES, 'h', 'min', 's'])} Known: s, min, h, D, B, W, ME (months), QE, YE, with a number before it.")
    while unit in _COARSER and count % _COARSER[unit][0] == 0:
        more, unit_above = _COARSER[unit]
        count, unit = count // more, unit_above
    return f"{count if count > 1 else ''}{unit}"


def coarser(frequency: str, factor: int) -> str:
    """The interval of steps that are `factor` of these: ("15min", 4) -> "h", ("ME", 3) -> "QE", ("D", 2) -> "2D"."""
    count, unit = parts(frequency)
    count *= factor
    for size, above in _CALENDAR.get(unit, ()):
        if count % size == 0:
            count, unit = count // size, above
            break
    return normalise(f"{count}{unit}")


def token(frequency: str | None) -> int:
    """The token of an interval, `UNKNOWN` for None and for one without an own token."""
    return UNKNOWN if frequency is None else TOKENS.get(normalise(frequency), UNKNOWN)


def seasonality(frequency: str | None) -> int:
    """Steps of the usual season of an interval; 1 where there is none, or where it is no whole number of steps."""
    if frequency is None:
        return 1
    count, unit = parts(frequency)
    steps = _SEASONS.get(unit, 1)
    return steps // count if steps % count == 0 else 1


def horizon(frequency: str | None) -> int:
    """Usual steps ahead for an interval; 24 where it is not known."""
    return 24 if frequency is None else _HORIZONS.get(parts(frequency)[1], 24)


def parts(frequency: str) -> tuple[int, str]:
    """ "15min" -> (15, "min")."""
    match = re.fullmatch(r"(\d*)(\w+)", normalise(frequency))
    return int(match[1] or 1), match[2]
