"""The text formats of two archives: Monash's .tsf (forecasting) and the .ts of UCR and UEA (classification)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from modalities.time_series.formats.jsonl import record_item
from modalities.time_series.formats.tables import MISSING
from modalities.time_series.frequency import normalise
from modalities.time_series.series import Item
from trainer.errors import DataError, shorten

WORDS = {"half_hourly": "30min", "4_seconds": "4s", "10_minutes": "10min", "minutely": "min"}
"""Frequencies of Monash's files that have a name of their own there."""


def read_tsf(path: Path) -> tuple[list[Item], int | None]:
    """The series of a .tsf, and the horizon that the file names. DataError names the line."""
    names, kinds, horizon, frequency, items, data = [], [], None, None, [], False
    for number, line in _lines(path, "latin-1"):
        where = f"{path}, line {number}"
        if line.startswith("@"):
            word, *rest = line[1:].split()
            if word == "attribute" and len(rest) == 2:
                names.append(rest[0])
                kinds.append(rest[1])
            elif word == "frequency" and rest:
                frequency = WORDS.get(rest[0]) or normalise(rest[0])
            elif word == "horizon" and rest and rest[0].isdigit():
                horizon = int(rest[0])
            data |= word == "data"
            continue
        if not data:
            raise DataError(f"{where}: {shorten(line)} stands before @data.")
        cells = line.split(":")
        if len(cells) < len(names) + 1:
            raise DataError(f"{where} has {len(cells) - 1} attributes, and the header names {len(names)}: {', '.join(names)}.")
        values, attributes = ":".join(cells[len(names) :]), dict(zip(names, cells))
        record = {"target": _numbers(values.split(","), where), "item_id": attributes.get("series_name"), "freq": frequency}
        start = next((attributes[name] for name, kind in zip(names, kinds) if kind == "date"), None)
        if start is not None and frequency is not None:
            day, _, clock = start.partition(" ")
            record["start"] = f"{day}T{clock.replace('-', ':')}" if clock else day
        items.append(record_item(record, where, f"{path.stem} {len(items)}"))
    if not items:
        raise DataError(f"{path} has no series after @data.")
    return items, horizon


def read_ts(path: Path) -> list[Item]:
    """The series of a UCR or UEA .ts: channels apart by colons, the class at the end. Channels of different length are filled up with missing values."""
    classes, items, data, stamped = True, [], False, False
    for number, line in _lines(path, "utf-8-sig"):
        where = f"{path}, line {number}"
        if line.startswith("@"):
            words = line[1:].lower().split()
            classes = words[1] == "true" if words[0] == "classlabel" and len(words) > 1 else classes
            stamped |= words[0] == "timestamps" and words[1:2] == ["true"]
            data |= words[0] == "data"
            continue
        if not data:
            raise DataError(f"{where}: {shorten(line)} stands before @data.")
        if stamped:
            raise DataError(f"{path} has time stamps in its series, which are not read. Save it without (@timestamps false).")
        cells = line.split(":")
        label = cells.pop() if classes else None
        channels = [_numbers(cell.split(","), where) for cell in cells]
        if not channels:
            raise DataError(f"{where} has no series before its class {shorten(label)}.")
        longest = max(map(len, channels))
        values = np.array([channel + [np.nan] * (longest - len(channel)) for channel in channels])
        items.append(Item(f"{path.stem} {len(items)}", values, label=label))
    if not items:
        raise DataError(f"{path} has no series after @data.")
    return items


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding=encoding) as file:
            for number, line in enumerate(file, 1):
                if line.strip() and not line.startswith("#"):
                    yield number, line.strip()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}).") from error


def _numbers(cells: list[str], where: str) -> list[float]:
    found = []
    for place, cell in enumerate(cells, 1):
        try:
            found.append(np.nan if cell.strip().lower() in MISSING else float(cell))
        except ValueError:
            raise DataError(f"{where}, value {place}: {shorten(cell)} is no number.") from None
    return found
