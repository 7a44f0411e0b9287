"""A path or the name of a built-in collection -> its data sets."""

from pathlib import Path

from modalities.time_series.formats import open_path
from modalities.time_series.real import NAME, real_sets
from modalities.time_series.series import SeriesSet

BUILT_IN = (NAME,)
"""Collections that come with a library."""


def open_sets(path: str) -> list[SeriesSet]:
    """The data sets of a file, of a folder of files, or of a built-in collection, perhaps some of it: "statsmodels", "statsmodels:co2,nile"."""
    name, _, some = path.partition(":")
    if name in BUILT_IN and not Path(path).exists():
        return real_sets(tuple(some.split(",")) if some else None)
    return open_path(path)
