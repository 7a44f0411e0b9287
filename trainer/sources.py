"""Sources that any modality can use: arrays in memory or mapped from files, and tables that name files.

Nothing here unpickles. A file's arrays are mapped, so that only the rows that are asked for are read.
"""

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.decoders import decode, npy_header
from trainer.errors import DataError, MissingDependencyError, did_you_mean
from trainer.objective import Batch
from trainer.remote import local_copy

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of tables."""
KINDS = "biufc"
"""Kinds of numbers that become tensors."""


class Arrays:
    """Arrays of equal length, by name; a sample is the row of each as a tensor."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str = "arrays") -> None:
        """DataError when lengths differ or an array holds no numbers."""
        self.arrays, self.name = dict(arrays), name
        self.in_memory = not any(isinstance(a, np.memmap) for a in self.arrays.values())
        if not self.arrays or any(a.ndim == 0 or a.dtype.kind not in KINDS for a in self.arrays.values()):
            raise DataError(f"{name} must hold arrays of numbers with at least one axis, found {self._found() or 'none'}.")
        if len({len(a) for a in self.arrays.values()}) > 1:
            raise DataError(f"The arrays of {name} must have one row for each sample, found {self._found()}.")

    def _found(self) -> str:
        return ", ".join(f"{key} {a.dtype} {a.shape}" for key, a in self.arrays.items())

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.fetch([index]).items()}

    def fetch(self, indices: Sequence[int], keys: np.ndarray | None = None) -> Batch:
        """A whole batch at once; nothing in it is random."""
        chosen = np.asarray(indices, np.int64)
        by_place = np.argsort(chosen, kind="stable")  # a mapped file is read in its own order
        back = np.argsort(by_place)
        rows = {key: array[chosen[by_place]][back] for key, array in self.arrays.items()}
        return {key: torch.from_numpy(r.astype(r.dtype.newbyteorder("="), copy=False)) for key, r in rows.items()}

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        return {"name": self.name, "samples": len(self), "arrays": {key: f"{a.dtype} {a.shape[1:]}" for key, a in self.arrays.items()}}


def open_arrays(path: Path | str) -> Arrays:
    """The arrays of a .npy file (as "data"), of a .npz file (under their names), or of a folder of .npy files (by their file names).

    They are mapped, not read, but for a compressed .npz, which is unpacked into memory. DataError when there are none, they are damaged, or
    they hold Python objects.
    """
    path = local_copy(str(path))
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise DataError(f"There are no .npy files in {path}.")
        return Arrays({file.stem: _map(file) for file in files}, path.name)
    if path.suffix == ".npz":
        return Arrays(_archive(path), path.name)
    if path.suffix != ".npy":
        raise DataError(f"{path} is no file of arrays; expected .npy, .npz or a folder of .npy files.")
    return Arrays({"data": _map(path)}, path.name)


def _map(path: Path, offset: int = 0, size: int | None = None, where: str | None = None) -> np.ndarray:
    """The array of an npy file that begins at `offset` of `path` and has `size` bytes, mapped."""
    where = where or str(path)
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size - offset if size is None else size
            file.seek(offset)
            shape, fortran, dtype = npy_header(file, where)
            begin = file.tell()
        needed = math.prod(shape) * dtype.itemsize
        if needed != size - (begin - offset) or needed == 0:
            raise DataError(f"{where} claims {shape} of {dtype}, {needed:,} bytes, but {size - (begin - offset):,} follow. It is empty or damaged: fetch or save it again.")
        return np.memmap(path, dtype, "r", begin, shape, "F" if fortran else "C")
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror or error}).") from error
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where} cannot be mapped ({error}). Fetch or save it again.") from error


def _archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file: mapped where they are stored plainly."""
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                return decode(path.name, path.read_bytes(), str(path))
            arrays = {}
            for info in infos:
                archive.open(info).close()  # checks that the local header is that of this member
                file.seek(info.header_offset + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                begin = info.header_offset + 30 + name + extra
                arrays[info.filename.removesuffix(".npy")] = _map(path, begin, info.file_size, f"{path} [{info.filename}]")
            return arrays
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is no npz file, or damaged ({error}). Fetch or save it again.") from error


class FileTable:
    """A table that names a file in each row: .csv or .tsv with a header, .jsonl with an object per line, or .parquet."""

    def __init__(self, path: Path | str, column: str = "path") -> None:
        """`column` holds the files: paths relative to the table (or absolute), or URLs. DataError names the line of what is wrong."""
        self.table = local_copy(str(path))
        rows = list(self._rows())
        if not rows:
            raise DataError(f"The table {path} has no rows.")
        names = tuple(rows[0])
        if column not in names:
            raise DataError(f"The table {path} has no column {column!r}, only {', '.join(names)}.{did_you_mean(column, names)}")
        for number, row in enumerate(rows, 1):
            if row.keys() != rows[0].keys() or not isinstance(row[column], str) or not row[column]:
                raise DataError(f"Row {number} of {path} does not give {', '.join(names)} as the first row does, or names no file: {str(row)[:200]}.")
        self.files: list[str] = [row[column] for row in rows]
        """As the table names them."""
        self.columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in names if name != column}
        """The other columns: text, or what JSON or parquet hold."""

    def __len__(self) -> int:
        return len(self.files)

    def id(self, index: int) -> str:
        """The file as the table names it."""
        return self.files[index]

    def path(self, index: int) -> Path:
        """The file on this disk, fetched if it is a URL."""
        return self.table.parent / local_copy(self.files[index])

    def _rows(self) -> Iterator[dict[str, Any]]:
        if self.table.suffix == ".parquet":
            yield from _parquet_rows(self.table)
            return
        try:
            text = self.table.read_text("utf-8-sig")
            if self.table.suffix == ".jsonl":
                for number, line in enumerate(text.splitlines(), 1):
                    if line.strip():
                        row = json.loads(line)
                        if not isinstance(row, dict):
                            raise DataError(f"Line {number} of {self.table} is no JSON object.")
                        yield row
            elif self.table.suffix in TABLES:
                reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if self.table.suffix == ".tsv" else ",", strict=True)
                for number, row in enumerate(reader, 1):
                    if None in row or None in row.values():
                        raise DataError(f"Row {number} of {self.table} has more or fewer fields than the header, {', '.join(reader.fieldnames or ())}.")
                    yield row
            else:
                raise DataError(f"{self.table} is no table; expected a file that ends in {', '.join(TABLES)}.")
        except OSError as error:
            raise DataError(f"The table {self.table} cannot be read ({error.strerror}).") from error
        except (UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
            raise DataError(f"The table {self.table} is damaged, or no UTF-8 table ({error}). Save it again.") from error


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a parquet file. DataError when it is damaged, MissingDependencyError without pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("Reading parquet needs pyarrow: pip install 'modality-zoo[data]'.") from error
    try:
        return pyarrow.parquet.read_table(path, use_threads=False).to_pylist()
    except OSError as error:
        raise DataError(f"The table {path} cannot be read ({error.strerror or error}).") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"The table {path} is damaged, or no parquet ({error}). Save it again.") from error
