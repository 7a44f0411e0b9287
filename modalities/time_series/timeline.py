"""The times that follow those of a series."""

import numpy as np

from modalities.time_series.frequency import parts

_FIXED = {"ms": "ms", "s": "s", "min": "m", "h": "h", "D": "D", "W": "W"}
"""Our units of a fixed length -> numpy's."""
_MONTHS = {"ME": 1, "QE": 3, "YE": 12}
"""Months of the units that are no fixed length."""


def continued(times: np.ndarray, frequency: str | None, count: int) -> np.ndarray:
    """(count,) datetime64 after (T,) `times` at a sampling interval; where it is not known, at their median distance (of one point: a day).

    Months keep their day; the last day of a month is followed by last days.
    """
    last = times[-1].astype("datetime64[ms]")
    number, unit = parts(frequency) if frequency is not None else (1, "")
    ahead = np.arange(1, count + 1) * number
    if unit in _FIXED:
        return last + ahead.astype(f"timedelta64[{_FIXED[unit]}]").astype("timedelta64[ms]")
    if unit == "B":
        return np.busday_offset(last.astype("datetime64[D]"), ahead, roll="forward").astype("datetime64[ms]")
    if unit in _MONTHS:
        return _months(last, ahead * _MONTHS[unit])
    step = np.median(np.diff(times.astype("datetime64[ms]")).astype(np.int64)) if len(times) > 1 else 86_400_000
    return last + (np.arange(1, count + 1) * int(step)).astype("timedelta64[ms]")


def _months(last: np.datetime64, ahead: np.ndarray) -> np.ndarray:
    """`last` so many months later."""
    month = last.astype("datetime64[M]")
    day, months = last - month.astype("datetime64[ms]"), month + ahead.astype("timedelta64[M]")
    begin, end = months.astype("datetime64[D]"), (months + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
    at_end = last.astype("datetime64[D]") == (month + np.timedelta64(1, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
    if at_end:
        return end.astype("datetime64[ms]") + (last - last.astype("datetime64[D]").astype("datetime64[ms]"))
    return np.minimum(begin.astype("datetime64[ms]") + day, end.astype("datetime64[ms]"))
