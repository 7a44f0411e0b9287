"""Tables of files with several labels each: what was found in a sample, and what was not."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from modalities.common.sources import TableSource
from trainer.errors import DataError, did_you_mean, shorten


class FindingsSource(TableSource):
    """Files that a table names, with several labels each: a column per label with 1 (true, yes) or 0 (false, no).

    An empty cell, null, NaN or -1 ("uncertain") is a label that is not known. `labels` is (N, K) float32 with NaN there, `classes` the columns.
    """

    def __init__(self, path: str, preprocess: Any, columns: Sequence[str]) -> None:
        super().__init__(path, preprocess, labelled=False)
        known = self.table.columns
        lacking = [name for name in columns if name not in known]
        if lacking:
            raise DataError(f"{path} has no column {lacking[0]!r}.{did_you_mean(lacking[0], known)} Columns: {', '.join(known)}.")
        self.classes = tuple(columns)
        rows = zip(*(known[name] for name in columns))
        self.labels = torch.tensor([[_yes_or_no(cell, path, number, name) for cell, name in zip(row, columns)] for number, row in enumerate(rows, 1)])
        for name, column in zip(columns, self.labels.T):
            if column.isnan().all():
                raise DataError(f"The column {name!r} of {path} says of no {self.noun} whether it is so. Fill it, or leave it out of data.label_columns.")


YES_OR_NO = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1.0),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0.0),
    **dict.fromkeys(("", "none", "null", "nan", "na", "-1", "-1.0"), math.nan),
}
"""What a cell may hold, in small letters."""


def _yes_or_no(cell: Any, path: str, number: int, column: str) -> float:
    """1, 0, or NaN where it is not known."""
    value = YES_OR_NO.get(str(cell).strip().lower())
    if value is None:
        raise DataError(f"Row {number} of {path} has {shorten(cell)} in the column {column!r}; expected 1, 0, or nothing (or -1) where it is not known.")
    return value
