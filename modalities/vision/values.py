"""What the numbers of pixels mean, whatever they are stored as: arrays in files, and their full range, which becomes 0..1."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from trainer.decoders import LIMITS, decode
from trainer.errors import DataError

ARRAY = ".npy"
"""Ending of files that hold an array."""
MAGIC = b"\x93NUMPY"
"""What such a file begins with."""
ROUNDING = 1e-3
"""How far outside 0..1 a float picture may lie (a bicubic resize overshoots by rounding)."""


def stored_array(raw: Any, where: str) -> np.ndarray | None:
    """The array of an .npy file by its path or its content, and None for anything else. Raises DataError when it is damaged or holds no numbers."""
    if isinstance(raw, (str, os.PathLike)) and Path(raw).suffix.lower() == ARRAY:
        return decode("npy", content_of(Path(raw), where), where)
    return decode("npy", raw, where) if isinstance(raw, bytes) and raw.startswith(MAGIC) else None


def content_of(path: Path, where: str) -> bytes:
    """The bytes of a file, not more than are read of any member of a tar. Raises DataError."""
    try:
        if path.stat().st_size > LIMITS.encoded:
            raise DataError(f"{where} has {path.stat().st_size:,} bytes; at most {LIMITS.encoded:,} are read.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}).") from error


def in_unit_range(array: np.ndarray, where: str) -> np.ndarray:
    """The numbers of a picture as float32 in 0..1: uint8 and uint16 by their full range, bool and floats as they are.

    Raises DataError for another type, for NaN or infinity, and for floats outside 0..1.
    """
    full = {np.dtype("uint8"): 255, np.dtype("uint16"): 65535}.get(array.dtype.newbyteorder("="))
    if full is not None:
        return array.astype(np.float32) / full
    if array.dtype != bool and not np.issubdtype(array.dtype, np.floating):
        hint = ""
        if np.issubdtype(array.dtype, np.integer):
            low, high = int(array.min()), int(array.max())
            kind = "uint8" if 1 < high <= 255 else "uint16" if 255 < high <= 65535 else ""
            hint = f" It holds {low} to {high}: " + (f"use .astype({kind!r})." if low >= 0 and kind else "use bool, or floats in 0..1.")
        raise DataError(f"{where} has the type {array.dtype}; expected uint8, uint16, bool, or floats in 0..1.{hint}")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{where} holds {int((~np.isfinite(values)).sum())} NaN or infinite pixels out of {values.size}.")
    low, high = float(values.min()), float(values.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        hint = "It looks normalised already: give the plain picture" if low < 0 else "Divide by its full range (255 for 8-bit values)"
        raise DataError(f"{where} holds floats from {low:.4g} to {high:.4g}; expected 0..1. {hint}.")
    return values.clip(0, 1)
