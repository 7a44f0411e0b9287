"""Time stamps: reading them, checking their order, telling the sampling interval, and filling gaps."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from modalities.time_series.frequency import normalise
from trainer.errors import DataError, shorten

log = logging.getLogger("zoo")

FORMATS = ("%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y%m%d", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%b-%d-%Y", "%d-%b-%Y", "%d %b %Y", "%Y-%m-%d %H-%M-%S")
"""What is understood besides ISO 8601, years, and quarters (1959Q1)."""
SLASHES = (("%m/%d/%Y", "%d/%m/%Y"), ("%m/%d/%y", "%d/%m/%y"), ("%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M"), ("%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S"))
"""Day and month with slashes: which is which must follow from the dates themselves."""
SPARSE = 0.2
"""A series of which less than this share would be there on an even grid counts as irregular."""


def is_time(text: str) -> bool:
    """Whether a cell looks like a date: something that is no plain number and can be read."""
    try:
        float(text)
        return False
    except ValueError:
        pass  # no number: it may be a date
    try:
        parse([text], "a cell")
        return True
    except DataError:
        return any(_tried(formats[0], [text]) is not None or _tried(formats[1], [text]) is not None for formats in SLASHES)


def parse(texts: Sequence[str], where: str, first: int = 1) -> np.ndarray:
    """Time stamps (T,) datetime64[s]; of times with a zone those in UTC. DataError names the row, counted from `first`, that cannot be read."""
    texts = [str(text).strip() for text in texts]
    for attempt in (_iso, _quarters, _years):
        found = attempt(texts)
        if found is not None:
            return found
    for pattern in FORMATS:
        found = _tried(pattern, texts)
        if found is not None:
            return found
    for pair in SLASHES:
        both = [found for found in (_tried(pattern, texts) for pattern in pair) if found is not None]
        if len(both) == 1:
            return both[0]
        if len(both) == 2:
            even = [found for found in both if infer(found) is not None]
            if len(even) == 1:  # as dates of the other reading they would come in no order
                return even[0]
            raise DataError(f"{where}: which of {shorten(texts[0])} is the day and which the month does not follow from the dates. Write them as 2024-12-31.")
    row = next((i for i, text in enumerate(texts) if _iso([text]) is None and _years([text]) is None), 0)
    raise DataError(f"{where}, row {first + row}: {shorten(texts[row])} is no time that is understood. Write times as 2024-12-31 or 2024-12-31T23:59:00, all in one way.")


def _iso(texts: list[str]) -> np.ndarray | None:
    if not all(len(text) >= 7 and text[4:5] == "-" for text in (texts[0], texts[-1])):
        return None
    if texts[0].endswith("Z") or "+" in texts[0]:
        try:
            return np.array([datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None) for text in texts], "datetime64[s]")
        except ValueError:
            return None
    try:
        found = np.array(texts, "datetime64[s]")
    except ValueError:
        return None
    return None if np.isnat(found).any() else found


def _quarters(texts: list[str]) -> np.ndarray | None:
    try:
        pairs = [(int(text[:4]), int(text.upper().split("Q")[1])) for text in texts]
    except (ValueError, IndexError):
        return None
    return np.array([f"{year:04d}-{3 * quarter - 2:02d}" for year, quarter in pairs], "datetime64[s]") if all(1 <= q <= 4 for _, q in pairs) else None


def _years(texts: list[str]) -> np.ndarray | None:
    try:
        years = [int(text) for text in texts]
    except ValueError:
        return None
    return np.array([f"{year:04d}" for year in years], "datetime64[s]") if all(1000 <= year <= 2999 for year in years) else None


def _tried(pattern: str, texts: list[str]) -> np.ndarray | None:
    try:
        return np.array([datetime.strptime(text, pattern) for text in texts], "datetime64[s]")
    except ValueError:
        return None


def infer(times: np.ndarray) -> str | None:
    """The sampling interval of rising time stamps (T,), gaps allowed; None when no step fits them.

    Months, quarters and years are told by their months; else the greatest common divisor of the differences is the step. Days without a
    Saturday and Sunday are business days.
    """
    if len(times) < 3:
        return None
    months = times.astype("datetime64[M]").astype(np.int64)
    steps, days = np.diff(months), (times - times.astype("datetime64[M]")).astype("timedelta64[s]").astype(np.int64) / 86400
    if (steps >= 1).all() and (np.ptp(days) == 0 or (days >= 27).all()):  # one day of the month, or its last days
        step = int(np.gcd.reduce(steps))
        return {12: "YE", 3: "QE"}.get(step) or normalise(f"{step}ME")
    seconds = np.diff(times.astype("datetime64[s]").astype(np.int64))
    if (seconds <= 0).any():
        return None
    step = int(np.gcd.reduce(seconds))
    if seconds.sum() // step + 1 > len(times) / SPARSE:
        return None
    if step == 86400 and len(times) > 5 and not np.isin((times.astype("datetime64[D]").astype(np.int64) + 3) % 7, (5, 6)).any():  # day 0 was a Thursday
        return "B"
    return normalise(f"{step}s")


def grid(times: np.ndarray, frequency: str) -> np.ndarray:
    """The place of each time stamp (T,) on an even grid of its sampling interval that begins with the first."""
    if frequency.endswith(("ME", "QE", "YE")):
        months = times.astype("datetime64[M]").astype(np.int64) - times[:1].astype("datetime64[M]").astype(np.int64)
        return months // np.gcd.reduce(np.diff(months))
    if frequency == "B":
        return np.busday_count(times[0].astype("datetime64[D]"), times.astype("datetime64[D]"))
    seconds = (times - times[0]).astype("timedelta64[s]").astype(np.int64)
    return seconds // np.gcd.reduce(np.diff(seconds))


def even(values: np.ndarray, times: np.ndarray, where: str, first: int = 1) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Values (C, T) at rising times on an even grid, NaN where a time is missing; the times of the grid; the sampling interval.

    Irregular series stay as they are, with None, which the log says. DataError names the row of a time that is not after the one before it.
    """
    steps = np.diff(times.astype("datetime64[s]").astype(np.int64))
    if (steps <= 0).any():
        row = int((steps <= 0).argmax()) + 1
        twice = steps[row - 1] == 0
        how = "is there twice" if twice else f"comes after {times[row - 1]}, which is later"
        raise DataError(f"{where}, row {first + row}: the time {times[row]} {how}. {'Leave one out' if twice else 'Sort the rows by time'}.")
    frequency = infer(times)
    if frequency is None:
        if len(times) > 2:
            log.warning("%s: no sampling interval fits its times; the series is taken step by step, as if its steps were equal.", where)
        return values, times, None
    places = grid(times, frequency)
    if places[-1] + 1 == len(places):
        return values, times, frequency
    out = np.full((len(values), places[-1] + 1), np.nan)
    out[:, places] = values
    whole = np.empty(places[-1] + 1, times.dtype)
    missing = np.ones(len(whole), bool)
    missing[places] = False
    whole[places] = times
    whole[missing] = (times[0] + np.interp(np.flatnonzero(missing), places, (times - times[0]).astype(np.int64)).astype("timedelta64[s]")).astype(times.dtype)
    return out, whole, frequency
