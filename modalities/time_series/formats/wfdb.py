"""Biosignals in WFDB's format (PhysioNet): a header .hea and its signals in .dat (formats 8, 16, 24, 32, 80, 212) or .mat (MATLAB 4, int16).

Format: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm. Records of several segments are not read.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modalities.time_series.frequency import normalise
from modalities.time_series.series import Item
from trainer.errors import DataError

GAIN = 200.0
"""Steps per unit where a header gives none."""
WIDTHS = {8: 1, 16: 2, 24: 3, 32: 4, 80: 1}
"""Bytes per sample of the plain formats; 212 packs two samples in three bytes."""
INVALID = {16: -(2**15), 32: -(2**31), 24: -(2**23), 80: -(2**7), 212: -(2**11)}
"""The number that stands for a missing sample."""


@dataclass(frozen=True)
class Signal:
    """A line of the header."""

    file: str
    format: int
    skew: int
    """Bytes before the signals in the file (the header of MATLAB 4 is 24 bytes)."""
    gain: float
    baseline: int
    name: str
    first: int | None
    """First sample, for format 8, which holds differences."""


def read_record(path: Path) -> list[Item]:
    """The record of a .hea as one series with a channel per signal, in physical units. DataError names the line or file of what is wrong."""
    rate, count, signals = _header(path)
    values = np.empty((len(signals), 0))
    for file in dict.fromkeys(signal.file for signal in signals):
        group = [i for i, signal in enumerate(signals) if signal.file == file]
        found = _samples(path.parent / file, [signals[i] for i in group], count)
        values = np.full((len(signals), found.shape[1]), np.nan) if not values.size else values
        if found.shape[1] != values.shape[1]:
            raise DataError(f"{path}: its files hold {values.shape[1]} and {found.shape[1]} samples per signal.")
        for place, row in zip(group, found):
            one = signals[place]
            digital = np.where(row == INVALID.get(one.format, np.inf), np.nan, row)
            values[place] = (digital - one.baseline) / one.gain
    step = 1 / rate
    frequency = normalise(f"{round(step)}s") if step >= 1 and step == round(step) else None
    return [Item(path.stem, values, tuple(signal.name for signal in signals), frequency=frequency, static=np.array([rate]))]


def _header(path: Path) -> tuple[float, int | None, list[Signal]]:
    """Samples per second, samples per signal, signals."""
    try:
        lines = [line.strip() for line in path.read_text("latin-1").splitlines() if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    record = lines[0].split() if lines else []
    if len(record) < 2 or not record[1].isdigit():
        raise DataError(f"{path} is no WFDB header: its first line must name the record and the number of signals.")
    if "/" in record[0]:
        raise DataError(f"{path} describes a record of several segments, which is not read. Give the segments one by one.")
    rate = float(re.match(r"[\d.]+", record[2])[0]) if len(record) > 2 and re.match(r"[\d.]+", record[2]) else 250.0
    count = int(record[3]) if len(record) > 3 and record[3].isdigit() and int(record[3]) else None
    if len(lines) < 1 + int(record[1]) or int(record[1]) < 1:
        raise DataError(f"{path} promises {record[1]} signals and describes {len(lines) - 1}.")
    return rate, count, [_signal(line, path, i) for i, line in enumerate(lines[1 : 1 + int(record[1])])]


def _signal(line: str, path: Path, number: int) -> Signal:
    cells = line.split()
    kind = re.fullmatch(r"(\d+)(?:x(\d+))?(?::\d+)?(?:\+(\d+))?", cells[1]) if len(cells) > 1 else None
    if kind is None or int(kind[1]) not in (*WIDTHS, 212) or kind[2] not in (None, "1"):
        raise DataError(f"{path}, signal {number + 1}: its format {cells[1] if len(cells) > 1 else 'is missing'!r} is not read; expected one of {', '.join(map(str, sorted((*WIDTHS, 212))))}, one sample per frame.")
    if "/" in cells[0] or "\\" in cells[0]:
        raise DataError(f"{path}, signal {number + 1}: {cells[0]!r} is no file beside the header.")
    gain = re.match(r"([\d.eE+-]+)(?:\((-?\d+)\))?", cells[2]) if len(cells) > 2 else None
    zero = int(cells[4]) if len(cells) > 4 else 0
    baseline = int(gain[2]) if gain is not None and gain[2] else zero
    first = int(cells[5]) if len(cells) > 5 else None
    return Signal(cells[0], int(kind[1]), int(kind[3] or 0), float(gain[1]) or GAIN if gain is not None else GAIN, baseline, " ".join(cells[8:]) or f"signal {number}", first)


def _samples(path: Path, signals: list[Signal], count: int | None) -> np.ndarray:
    """(signals, T) digital values of the signals that share a file, sample by sample."""
    one = signals[0]
    if any((s.format, s.skew) != (one.format, one.skew) for s in signals):
        raise DataError(f"{path}: the signals of one file have different formats.")
    try:
        raw = np.fromfile(path, np.uint8)[one.skew :]
    except OSError as error:
        raise DataError(f"{path}, which the header names, cannot be read ({error.strerror or error}).") from error
    if one.format == 212:
        raw = raw[: len(raw) // 3 * 3].reshape(-1, 3).astype(np.int32)
        pairs = np.stack([raw[:, 0] | (raw[:, 1] & 15) << 8, raw[:, 2] | (raw[:, 1] >> 4) << 8], 1).ravel()
        flat = np.where(pairs > 2047, pairs - 4096, pairs)
    elif one.format == 24:
        raw = raw[: len(raw) // 3 * 3].reshape(-1, 3).astype(np.int32)
        flat = (raw[:, 0] | raw[:, 1] << 8 | raw[:, 2] << 16) << 8 >> 8
    elif one.format == 80:
        flat = raw.astype(np.int32) - 128
    else:
        width = WIDTHS[one.format]
        flat = raw[: len(raw) // width * width].view(f"<i{width}").astype(np.int32)
    length = len(flat) // len(signals)
    if length == 0 or (count is not None and length < count):
        raise DataError(f"{path} holds {length} samples per signal, and the header promises {count or 'some'}. It is cut off: fetch it again.")
    found = flat[: length * len(signals)].reshape(length, len(signals)).T[:, :count].astype(np.float64)
    if one.format == 8:
        found = np.cumsum(found, 1) + np.array([[(s.first or 0)] for s in signals])
    return found
