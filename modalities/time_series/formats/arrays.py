"""Series as arrays: .npy and .npz, mapped where they lie plainly on disk."""

from pathlib import Path

import numpy as np

from modalities.time_series.series import Item
from trainer.errors import DataError
from trainer.sources import open_arrays

KINDS = "fiu"


def read_arrays(path: Path) -> list[Item]:
    """Each array of the file: (T,) is a series, (C, T) one with channels, (N, C, T) several. DataError for others, empty or infinite ones."""
    items = []
    for name, array in open_arrays(path).arrays.items() if path.suffix == ".npy" else _ragged(path).items():
        name = path.stem if path.suffix == ".npy" else name
        if array.dtype.kind not in KINDS or array.ndim not in (1, 2, 3) or 0 in array.shape:
            raise DataError(f"{path} [{name}] is {array.dtype} of shape {array.shape}; expected numbers of shape (T,), (C, T) or (N, C, T).")
        values = array if array.dtype.kind == "f" else array.astype(np.float64)
        if np.isinf(values).any():
            place = tuple(int(i) for i in np.argwhere(np.isinf(values))[0])
            raise DataError(f"{path} [{name}] is infinite at {place}. Put NaN where nothing was measured.")
        if array.ndim == 3:
            items.extend(Item(f"{name} {i}", one) for i, one in enumerate(values))
        else:
            items.append(Item(name, np.atleast_2d(values)))
    return items


def _ragged(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz, which need not be of one length."""
    try:
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # numpy raises zipfile's, zlib's and its own, and refuses Python objects with a ValueError
        raise DataError(f"{path} is no npz file of numbers, or damaged ({error}).") from error
