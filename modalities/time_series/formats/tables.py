"""Tables: a row per time and a column per channel (wide), or a row per time and series (long); CSV by the standard library, without pandas."""

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from modalities.time_series.formats.times import even, is_time, parse
from modalities.time_series.series import Item
from trainer.errors import DataError, shorten

TIMES = ("date", "timestamp", "time", "datetime", "ds", "month", "year", "day", "week", "quarter", "period", "")
"""Names of columns that may hold the time (in any case)."""
IDS = ("item_id", "unique_id", "series_id", "series", "ticker", "symbol", "id")
"""Names of the column that tells series apart in a long table."""
TARGETS = ("target", "y", "value", "close")
"""Names of the value in a long table; other number columns are covariates of the past."""
MISSING = ("", "na", "nan", "n/a", "null", "none", "-", "?", ".")
"""Cells without a value, in any case."""
CHUNK = 1000
"""Rows that are converted at once."""


def read_csv(path: Path) -> list[Item]:
    """The series of a .csv, .tsv or .txt. DataError names file, row and column of what is wrong; rows are counted as an editor counts lines."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            sample = file.read(1 << 16)
            file.seek(0)
            rows = csv.reader(file, delimiter=_delimiter(path, sample), skipinitialspace=True)
            return _read_rows(rows, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no UTF-8 table, or damaged ({error}). Save it again as CSV.") from error


def _delimiter(path: Path, sample: str) -> str:
    if path.suffix == ".tsv":
        return "\t"
    line = sample.partition("\n")[0]
    return max((",", ";", "\t"), key=line.count)


def _read_rows(rows: Iterator[list[str]], path: Path) -> list[Item]:
    head = next((row for row in rows if row), None)
    if head is None:
        raise DataError(f"{path} is empty. Expected a header with the names of the columns, and a row for each time.")
    first = list(islice((row for row in rows if row), 1))
    headless = all(_is_value(cell) or is_time(cell) for cell in head) and any(_is_value(cell) and cell.strip() for cell in head)
    if not first and not headless:
        raise DataError(f"{path} has a header and no rows: there is no series in it.")
    begin = [head, *first] if headless else first
    names = [str(i) for i in range(len(head))] if headless else [name.strip() for name in head]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns called {twice!r}. Give each its own name.")
    line = 1 if headless else 2
    layout = Layout(names, begin[0])
    columns, texts = _convert(begin, rows, layout, names, path, line)
    return to_items(columns, texts, layout, names, str(path), line, path.stem)


def _is_value(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in MISSING
    return True


class Layout:
    """Which column is what."""

    def __init__(self, names: Sequence[str], row: Sequence[str] | None = None) -> None:
        """`row`: cells of the first row, to see what is a time."""
        lowered = [name.lower() for name in names]
        self.id = next((lowered.index(name) for name in IDS if name in lowered), None)
        target = next((lowered.index(name) for name in TARGETS if name in lowered), None)
        named = [i for i, name in enumerate(lowered) if name in TIMES or (row is not None and i < len(row) and i != self.id and is_time(row[i]))]
        self.time = next((i for i in named if row is None or i >= len(row) or is_time(row[i])), None)
        if self.time is None and row is not None:  # years, or a column of that name that will be told to be wrong
            self.time = next((i for i in named if i < len(row) and (lowered[i] == "year" or not _is_value(row[i]) or (len(row[i]) == 4 and row[i].isdigit() and lowered[i] in TIMES))), None)
        unnamed = 0 if row is not None and lowered and lowered[0] == "" and self.time is None else None  # the row numbers that pandas writes
        self.long = self.id is not None and target is not None
        if not self.long:
            self.id = None
        self.target = target if self.long else None
        self.values = [i for i in range(len(names)) if i not in (self.id, self.time, unnamed)]


def _convert(begin: list[list[str]], rows: Iterator[list[str]], layout: Layout, names: list[str], path: Path, line: int) -> tuple[np.ndarray, dict[str, list[str]]]:
    """Numbers (rows, value columns) and the texts of time and id."""
    parts, texts, read = [], {"time": [], "id": []}, 0
    chunk = begin + list(islice((row for row in rows if row), CHUNK - len(begin)))
    while chunk:
        wrong = next((i for i, row in enumerate(chunk) if len(row) != len(names)), None)
        if wrong is not None:
            raise DataError(f"{path}, row {line + read + wrong} has {len(chunk[wrong])} fields, and there are {len(names)} columns. Is the file cut off, or a comma inside a number?")
        for key, column in (("time", layout.time), ("id", layout.id)):
            if column is not None:
                texts[key].extend(row[column] for row in chunk)
        parts.append(numbers(chunk, layout.values, names, str(path), line + read))
        read += len(chunk)
        chunk = list(islice((row for row in rows if row), CHUNK))
    return np.concatenate(parts), texts


def numbers(rows: list[list[str]], columns: Sequence[int], names: Sequence[str], where: str, first: int) -> np.ndarray:
    """Some columns of rows of text as float64, NaN where a cell says that it is missing. DataError names row and column of what is no number."""
    if not columns:
        return np.empty((len(rows), 0))
    pick = itemgetter(*columns) if len(columns) > 1 else lambda row: (row[columns[0]],)
    try:
        values = np.array([*map(float, chain.from_iterable(map(pick, rows)))])
    except ValueError:
        values = np.array([_number(row[column], names[column], where, first + i) for i, row in enumerate(rows) for column in columns])
    values = values.reshape(len(rows), len(columns))
    require_finite(values, [names[i] for i in columns], where, first)
    return values


def _number(cell: str, name: str, where: str, row: int) -> float:
    try:
        return float(cell)
    except ValueError:
        if cell.strip().lower() in MISSING:
            return math.nan
        comma = " Write decimals with a point." if "," in cell else ""
        raise DataError(f"{where}, row {row}, column {name!r}: {shorten(cell)} is no number.{comma}") from None


def require_finite(values: np.ndarray, names: Sequence[str], where: str, first: int = 1) -> None:
    """DataError with row and column of an infinite value of (rows, columns)."""
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise DataError(f"{where}, row {first + row}, column {names[column]!r} is infinite. Leave the cell empty where nothing was measured.")


def to_items(columns: np.ndarray, texts: dict[str, list[str]], layout: Layout, names: Sequence[str], where: str, first: int, stem: str) -> list[Item]:
    """The series of a table whose numbers are (rows, value columns)."""
    valued = [names[i] for i in layout.values]
    if not valued:
        raise DataError(f"{where} has no column with numbers beside the time; its columns are {', '.join(map(str, names))}.")
    times = parse(texts["time"], f"{where}, column {names[layout.time]!r}", first) if layout.time is not None else None
    if not layout.long:
        values, frequency = np.ascontiguousarray(columns.T), None
        if times is not None:
            values, times, frequency = even(values, times, where, first)
        return [Item(stem, values, tuple(valued) if len(valued) > 1 else (), times, frequency)]
    target = valued.index(names[layout.target])
    others = [i for i in range(len(valued)) if i != target]
    keys, found = np.array(texts["id"]), []
    order = np.argsort(keys, kind="stable")
    bounds = np.flatnonzero(np.append(True, keys[order][1:] != keys[order][:-1]))
    for begin, end in zip(bounds, [*bounds[1:], len(order)]):
        rows = order[begin:end]
        name, values, own = str(keys[rows[0]]), columns[rows].T, None if times is None else times[rows]
        frequency = None
        if own is not None:
            try:
                values, own, frequency = even(values, own, f"{where}, series {name!r}", 1)
            except DataError as error:
                row = int((np.diff(own.astype(np.int64)) <= 0).argmax()) + 1
                raise DataError(str(error).replace(f"row {1 + row}:", f"row {first + int(rows[row])}:")) from None
        found.append(Item(name, values[[target]], times=own, frequency=frequency, past_covariates=values[others] if others else None))
    return found
