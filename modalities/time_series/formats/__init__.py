"""The formats that series come in, by file ending: nothing here unpickles, and no library but numpy is needed except for Arrow and parquet."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from modalities.time_series.formats.archives import read_ts, read_tsf
from modalities.time_series.formats.arrays import read_arrays
from modalities.time_series.formats.arrow import read_arrow
from modalities.time_series.formats.jsonl import read_jsonl
from modalities.time_series.formats.tables import read_csv
from modalities.time_series.formats.wfdb import read_record
from modalities.time_series.series import Item, SeriesSet
from trainer.errors import DataError

READERS: dict[str, Callable[[Path], list[Item]]] = {
    ".csv": read_csv, ".tsv": read_csv, ".txt": read_csv, ".jsonl": read_jsonl, ".json": read_jsonl, ".parquet": read_arrow, ".pq": read_arrow, ".arrow": read_arrow,
    ".feather": read_arrow, ".ts": read_ts, ".npy": read_arrays, ".npz": read_arrays, ".hea": read_record,
}  # fmt: skip
"""Ending -> reader."""
ENDINGS = (*READERS, ".tsf")


def open_path(path: Path | str) -> list[SeriesSet]:
    """The data sets of a file, or of all files of a folder and its folders that have a known ending; a set per file and sampling interval.

    DataError when there is none, or says file, row and column of what is wrong.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"There is no file or folder {path}. Series are read from {', '.join(ENDINGS)}.")
    if not path.is_dir():
        return open_file(path)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files:
        raise DataError(f"There are no series in {path}: no file ends in {', '.join(ENDINGS)}.")
    return [found for file in files for found in open_file(file, file.relative_to(path).with_suffix("").as_posix())]


def open_file(path: Path, name: str | None = None) -> list[SeriesSet]:
    """The data set of one file; several when its series have different sampling intervals."""
    ending, horizon = path.suffix.lower(), None
    if ending == ".tsf":
        items, horizon = read_tsf(path)
    elif ending in READERS:
        items = READERS[ending](path)
    else:
        raise DataError(f"{path} has an ending that is not known. Series are read from {', '.join(ENDINGS)}.")
    _require_values(items, path)
    by_frequency: dict[str | None, list[Item]] = {}
    for item in items:
        by_frequency.setdefault(item.frequency, []).append(item)
    name = name or path.stem
    return [SeriesSet(name if len(by_frequency) == 1 else f"{name} [{key or 'irregular'}]", tuple(found), horizon, {"source": str(path)}) for key, found in by_frequency.items()]


def _require_values(items: Sequence[Item], path: Path) -> None:
    """DataError when there is nothing to forecast at all."""
    if not items or all(item.length == 0 or not np.isfinite(item.values).any() for item in items):
        raise DataError(f"{path} holds no series with a value.")
