"""GluonTS' JSON lines: an object per series with `start`, `target` and perhaps covariates; and the same as rows of Arrow or parquet."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modalities.time_series.formats.tables import require_finite
from modalities.time_series.formats.times import parse
from modalities.time_series.frequency import normalise
from modalities.time_series.series import Item
from trainer.errors import DataError, shorten

FIELDS = {"feat_dynamic_real": "future_covariates", "past_feat_dynamic_real": "past_covariates"}


def read_jsonl(path: Path) -> list[Item]:
    """The series of a .jsonl (or .json with an object per line). DataError names the line."""
    return [record_item(record, f"{path}, line {number}", f"{path.stem} {number}") for number, record in _records(path)]


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise DataError(f"{path}, line {number} is no object, but {shorten(record)}. Expected one with `target` and `start`.")
                    yield number, record
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is damaged, or no lines of JSON ({error}).") from error


def record_item(record: Mapping[str, Any], where: str, name: str) -> Item:
    """A series from GluonTS' fields: target (T,) or (C, T), start, freq, item_id, feat_dynamic_real, past_feat_dynamic_real, feat_static_real and _cat."""
    if "target" not in record:
        raise DataError(f"{where} has no `target`, only {', '.join(map(str, record))}.")
    target = matrix(record["target"], f"{where}, target")
    if target.shape[1] == 0:
        raise DataError(f"{where}: `target` is empty.")
    frequency = normalise(str(record["freq"])) if record.get("freq") else None
    more: dict[str, Any] = {}
    for field, key in FIELDS.items():
        if record.get(field) is not None and len(record[field]):
            more[key] = matrix(record[field], f"{where}, {field}")
            wrong = more[key].shape[1] < target.shape[1] if key == "future_covariates" else more[key].shape[1] != target.shape[1]
            if wrong:
                raise DataError(f"{where}: `{field}` has {more[key].shape[1]} steps and `target` {target.shape[1]}.")
    static = [*(record.get("feat_static_real") or ()), *(record.get("feat_static_cat") or ())]
    start = record.get("start")
    times = None
    if start is not None and frequency is not None:
        times = _times(parse([str(start)], f"{where}, start")[0], frequency, target.shape[1])
    return Item(str(record.get("item_id") or name), target, times=times, frequency=frequency, static=np.array(static, np.float64) if static else None, **more)


def _times(start: np.datetime64, frequency: str, count: int) -> np.ndarray | None:
    steps = {"s": ("s", 1), "min": ("m", 1), "h": ("h", 1), "D": ("D", 1), "W": ("D", 7), "ME": ("M", 1), "QE": ("M", 3), "YE": ("Y", 1)}
    number = "".join(c for c in frequency if c.isdigit())
    found = steps.get(frequency[len(number) :])
    if found is None:
        return None
    unit, step = found
    if unit in "MY":  # months have no length in seconds
        return (start.astype(f"datetime64[{unit}]") + step * int(number or 1) * np.arange(count)).astype("datetime64[s]")
    return (start + np.timedelta64(step * int(number or 1), unit) * np.arange(count)).astype("datetime64[s]")


def matrix(values: Any, where: str) -> np.ndarray:
    """Numbers (C, T) from a list, or a list of lists of equal length; null and NaN are missing. DataError says where it is none."""
    try:
        rows = np.array([[np.nan if v is None or v == "NaN" else v for v in row] for row in (values if len(values) and isinstance(values[0], (list, tuple, np.ndarray)) else [values])], np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} holds no numbers, or rows of different lengths ({error}).") from error
    require_finite(rows.T, [str(i) for i in range(len(rows))], where)
    return rows
