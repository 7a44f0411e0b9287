"""Arrow and parquet files: GluonTS' rows (a list per series), long and wide tables. Needs pyarrow."""

from pathlib import Path
from typing import Any

import numpy as np

from modalities.time_series.formats.jsonl import record_item
from modalities.time_series.formats.tables import Layout, require_finite, to_items
from modalities.time_series.formats.times import infer
from modalities.time_series.series import Item
from trainer.errors import DataError
from trainer.optional import library


def read_arrow(path: Path) -> list[Item]:
    """The series of a .parquet, .arrow or .feather. DataError names the row or column of what is wrong."""
    arrow = library("pyarrow", str(path))
    try:
        table = library("pyarrow.parquet", str(path)).read_table(path) if path.suffix in (".parquet", ".pq") else _ipc(path, arrow)
    except (OSError, arrow.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as {path.suffix[1:]} ({str(error).splitlines()[0]}).") from error
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows: there is no series in it.")
    names = [str(name) for name in table.column_names]
    lists = [i for i, field in enumerate(table.schema) if arrow.types.is_list(field.type) or arrow.types.is_large_list(field.type) or arrow.types.is_fixed_size_list(field.type)]
    if lists:
        records = table.to_pylist()
        return [record_item(_named(record), f"{path}, row {row}", f"{path.stem} {row}") for row, record in enumerate(records, 1)]
    layout = Layout(names)
    layout.time = next((i for i, field in enumerate(table.schema) if arrow.types.is_temporal(field.type)), layout.time)
    layout.values = [i for i in layout.values if i != layout.time and _is_number(table.schema[i].type, arrow)]
    values = np.stack([_column(table.column(i), names[i], path) for i in layout.values], 1) if layout.values else np.empty((table.num_rows, 0))
    require_finite(values, [names[i] for i in layout.values], str(path))
    texts = {key: [str(value) for value in table.column(i).to_pylist()] if i is not None else [] for key, i in (("time", layout.time), ("id", layout.id))}
    return to_items(values, texts, layout, names, str(path), 1, path.stem)


def _ipc(path: Path, arrow: Any) -> Any:
    """A table of an Arrow file or stream, which Hugging Face's data sets write."""
    with arrow.memory_map(str(path)) as source:
        try:
            return arrow.ipc.open_file(source).read_all()
        except arrow.ArrowInvalid:
            source.seek(0)
            return arrow.ipc.open_stream(source).read_all()


def _named(record: dict[str, Any]) -> dict[str, Any]:
    """Rows of Hugging Face's data sets call the series otherwise in places."""
    for old, new in (("id", "item_id"), ("timestamp", "times")):
        if old in record and new not in record:
            record[new] = record.pop(old)
    times = record.pop("times", None)
    if isinstance(times, list) and len(times) > 2 and not record.get("freq"):
        record["freq"] = infer(np.array([str(t) for t in times], "datetime64[s]"))
        record["start"] = str(times[0])
    return record


def _is_number(kind: Any, arrow: Any) -> bool:
    return arrow.types.is_floating(kind) or arrow.types.is_integer(kind) or arrow.types.is_boolean(kind) or arrow.types.is_decimal(kind)


def _column(column: Any, name: str, path: Path) -> np.ndarray:
    try:
        return np.array([np.nan if value is None else float(value) for value in column.to_pylist()]) if column.null_count else np.asarray(column.to_numpy(), np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}, column {name!r} holds no numbers ({error}).") from error
