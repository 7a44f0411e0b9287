"""Numbers in text files: read at once by numpy (ten million edges in a second or two), and line by line only to say what is wrong and where."""

import gzip
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trainer.errors import DataError, shorten

MISSING = ("", "nan", "none", "null", "na")
"""What an empty cell looks like, in small letters."""
Wrong = Callable[[np.ndarray], np.ndarray]
"""Rows (rows, columns) of numbers -> (rows,) bool, whether each is wrong."""


def read_numbers(
    path: Path, expected: str, wrong: Wrong | None = None, commas: bool = True, missing: bool = False
) -> np.ndarray:
    """Numbers of a text file, (lines, columns) float64; (0, 0) for a file without any. Empty lines and what follows a # are skipped; .gz is unpacked.

    With `commas` only commas divide numbers, else blanks and tabs do, too. `wrong` (rows, columns) -> (rows,) bool says which rows must not be. With `missing` empty cells
    are NaN, and so is an empty line; else NaN and infinity are wrong. DataError names the first line with something wrong, and what was `expected`.
    """
    fine = lambda table: (missing or np.isfinite(table).all()) and not (wrong is not None and wrong(table).any())  # noqa: E731
    try:
        table = _at_once(path, "," if commas or _has_comma(path) else None)
        if table is None or not fine(table) or (missing and len(table) != sum(1 for _ in _lines(path, missing))):
            table = _by_lines(path, expected, fine, commas, missing)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as {'gzipped ' if path.suffix == '.gz' else ''}text ({error}).") from error
    return table


def _at_once(path: Path, delimiter: str | None) -> np.ndarray | None:
    """The whole table, or None when numpy cannot read it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        try:
            table = np.loadtxt(path, delimiter=delimiter, ndmin=2, encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise
        except ValueError:
            return None
    return table if table.size else np.empty((0, 0))


def _lines(path: Path, empty: bool = False) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that hold something, or of all but comments."""
    with gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            text, comment, _ = line.partition("#")
            line = text.strip()
            if line or (empty and not comment):
                yield number, line


def _has_comma(path: Path) -> bool:
    return "," in next(_lines(path), (0, ""))[1]


def _by_lines(path: Path, expected: str, fine: Callable[[np.ndarray], bool], commas: bool, missing: bool) -> np.ndarray:
    """The same, slowly; DataError for the first line that is wrong."""
    rows: list[list[float]] = []
    for number, line in _lines(path, missing):
        cells = line.split(",") if commas else line.replace(",", " ").split()
        try:
            row = [np.nan if missing and cell.strip(' "').lower() in MISSING else float(cell) for cell in cells]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {shorten(line)} does not hold numbers only. Expected {expected}.") from error
        if rows and len(row) != len(rows[0]):
            raise DataError(f"{path}, line {number}: {shorten(line)} has {len(row)} numbers, and the first line {len(rows[0])}.")
        if not missing and not np.isfinite(row).all():
            raise DataError(f"{path}, line {number} holds NaN or infinity: {shorten(line)}.")
        if not fine(np.array([row])):
            raise DataError(f"{path}, line {number}: {shorten(line)}; expected {expected}.")
        rows.append(row)
    return np.array(rows) if rows else np.empty((0, 0))
