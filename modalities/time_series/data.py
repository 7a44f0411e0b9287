"""Time series from files, and what a batch of them holds.

Keys of a batch: see `modalities.time_series.models.forecaster`.
"""

from trainer.errors import DataError
from trainer.packing import RawData


def raw_parts(path: str, labelled: bool = True) -> dict[str, RawData]:
    """Time series are read from their own files and are not packed into shards: always a DataError."""
    raise DataError(f"{path}: time series are read from their own files (CSV, parquet, ...) and are not packed into shards.")
