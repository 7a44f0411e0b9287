"""Rows of parquet files, read a row group at a time."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.errors import DataError, MissingDependencyError, did_you_mean
from trainer.order import BUFFER, Order, ShardShuffle
from trainer.remote import expand, local_copy, scheme

GROUPS = 8
"""Row groups that a process keeps decoded."""


class ParquetTable:
    """The rows of one or several parquet files; a sample holds the value of each column: numbers and lists of numbers as tensors, text and bytes as they are.

    Row groups take the place of shards in the order of an epoch, so each is decoded about once.
    """

    def __init__(self, path: str, columns: tuple[str, ...] | None = None) -> None:
        """`path`: a file, a folder of them, or names with braces; local or a URL. `columns`: which to read. Null: all.

        DataError when a file is damaged or another in kind than the first; MissingDependencyError without pyarrow.
        """
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise MissingDependencyError("Reading parquet needs pyarrow: pip install 'modality-zoo[data]'.") from error
        self._arrow = pyarrow
        folder = Path(path).expanduser()
        names = sorted(map(str, folder.glob("*.parquet"))) if not scheme(path) and folder.is_dir() else expand(path)
        if not names:
            raise DataError(f"There are no .parquet files in {path}.")
        self.files = [local_copy(name) for name in names]
        self.groups: list[tuple[int, int]] = []
        """(file, row group) of each group."""
        counts, known = [], None
        for number, file in enumerate(self.files):
            metadata, schema = self._explained(file, lambda: (pyarrow.parquet.read_metadata(file), pyarrow.parquet.read_schema(file)))
            if known is not None and not schema.equals(known):
                raise DataError(f"{file} has other columns than {self.files[0]}: {schema.names} and {known.names}.")
            known = schema
            for group in range(metadata.num_row_groups):
                self.groups.append((number, group))
                counts.append(metadata.row_group(group).num_rows)
        self.columns = tuple(known.names if columns is None else columns)
        for column in self.columns:
            if column not in known.names:
                raise DataError(f"{self.files[0]} has no column {column!r}.{did_you_mean(column, known.names)} Columns: {', '.join(known.names)}.")
        self.counts = np.array(counts, np.int64)
        self.ends = np.cumsum(self.counts)
        # a window of the shuffle spans no more groups than are kept
        self.buffer = int(min(BUFFER, max(1, np.median(self.counts) * (GROUPS // 2)))) if counts else 1
        self._decoded: OrderedDict[int, Any] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": OrderedDict(), "_arrow": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import pyarrow.parquet

        self.__dict__ = {**state, "_arrow": pyarrow}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def order(self, seed: int, epoch: int) -> Order:
        """The order of one epoch."""
        return ShardShuffle(self.counts, seed, epoch, self.buffer)

    def id(self, index: int) -> str:
        """`file.parquet#row`."""
        number, row = self._place(index)
        file, group = self.groups[number]
        before = sum(int(c) for (f, g), c in zip(self.groups, self.counts) if f == file and g < group)
        return f"{self.files[file].name}#{before + row}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = self._place(index)
        table = self._group(number)
        return {column: self._value(table.column(column)[row], index, column) for column in self.columns}

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        return {"name": self.files[0].stem, "samples": len(self), "files": len(self.files), "columns": list(self.columns)}

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - int(self.ends[number] - self.counts[number])

    def _group(self, number: int) -> Any:
        """A decoded row group."""
        if number not in self._decoded:
            file, group = self.groups[number]
            path = self.files[file]

            def read() -> Any:
                with self._arrow.parquet.ParquetFile(path) as opened:
                    return opened.read_row_group(group, columns=list(self.columns), use_threads=False)

            self._decoded[number] = self._explained(path, read)
            if len(self._decoded) > GROUPS:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(number)
        return self._decoded[number]

    def _value(self, scalar: Any, index: int, column: str) -> Any:
        types = self._arrow.types
        if not scalar.is_valid:
            raise DataError(f"{self.id(index)} has no value in the column {column!r} (null). Fill it, or read other columns.")
        if types.is_list(scalar.type) or types.is_large_list(scalar.type) or types.is_fixed_size_list(scalar.type):
            values = scalar.values.to_numpy(zero_copy_only=False)
            if values.dtype.kind not in "biuf" or scalar.values.null_count:
                raise DataError(f"{self.id(index)} holds a list of {scalar.type.value_type} in the column {column!r}; expected numbers without gaps.")
            return torch.from_numpy(np.array(values))
        value = scalar.as_py()
        return torch.tensor(value) if isinstance(value, (bool, int, float)) else value

    def _explained(self, path: Path, read: Any) -> Any:
        try:
            return read()
        except (OSError, self._arrow.ArrowException) as error:
            raise DataError(f"{path} cannot be read as parquet ({error}). Fetch it again.") from error
