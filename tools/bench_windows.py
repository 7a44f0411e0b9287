"""Cutting windows out of a wide table, against a plain torch Dataset: `python -m tools.bench_windows`.

A CSV of 1,000 channels and 10,000 rows is written, read once, and windows at random places are drawn in batches by each way in turn, in one
process, interleaved. Both give the same tensors; the plain Dataset slices one window at a time and torch's DataLoader stacks them.
Ends with 0 only if the zoo's source is no slower (ratio of medians at least 1).
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import tyro
from torch.utils.data import DataLoader, Dataset

from modalities.time_series.formats import open_path
from modalities.time_series.windows import SeriesWindows, Span
from trainer.data import Stream


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    channels: int = 1000
    """Columns of the table."""
    rows: int = 10_000
    """Its rows."""
    context: int = 512
    """Steps of history."""
    horizon: int = 96
    """Steps of future."""
    batch: int = 256
    """Windows in a batch."""
    batches: int = 20
    """Batches in a round."""
    rounds: int = 9
    """Rounds of each way, after one that does not count."""


class Plain(Dataset):
    """Windows of an array (C, T) as a person would write them."""

    def __init__(self, values: np.ndarray, context: int, horizon: int) -> None:
        self.values, self.context, self.horizon = torch.from_numpy(values), context, horizon
        self.starts = values.shape[1] - context - horizon + 1

    def __len__(self) -> int:
        return len(self.values) * self.starts

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        channel, start = divmod(index, self.starts)
        window = self.values[channel : channel + 1, start : start + self.context + self.horizon]
        seen = ~window.isnan()
        window = window.nan_to_num(0.0)
        past, future = slice(None, self.context), slice(self.context, None)
        return {"series": window[:, past], "observed": seen[:, past], "target": window[:, future], "target_observed": seen[:, future]}


def main(options: Options) -> int:
    """Measure and print; 0 when the zoo's source is no slower."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-windows-") as root:
        path = write(Path(root) / "wide.csv", options)
        began = time.perf_counter()
        (data,) = open_path(path)
        read = time.perf_counter() - began
    values = np.ascontiguousarray(data.items[0].values, np.float32)
    spans = [Span(0, channel, options.context, options.rows - options.horizon) for channel in range(options.channels)]
    ours, plain = SeriesWindows(data.items, spans, options.context, options.horizon, "wide"), Plain(values, options.context, options.horizon)
    same(ours, plain)
    seconds: dict[str, list[float]] = {"zoo": [], "plain Dataset": []}
    ways = {"zoo": zoo_batches(ours, options), "plain Dataset": plain_batches(plain, options)}
    for _ in range(options.rounds + 1):
        for name, batches in ways.items():
            began = time.perf_counter()
            count = sum(len(batch["series"]) for batch in islice(batches, options.batches))
            seconds[name].append((time.perf_counter() - began) / count)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    ratio = medians["plain Dataset"] / medians["zoo"]
    print(f"{options.channels:,} channels x {options.rows:,} rows, read in {read:.1f} s; load average {os.getloadavg()[0]:.1f}")
    for name, median in medians.items():
        print(f"{name:<15}{1 / median:>10,.0f} windows/s")
    print(f"ratio of medians {ratio:.2f}")
    return 0 if ratio >= 1 else 1


def write(path: Path, options: Options) -> Path:
    """A table of random numbers with a row per hour."""
    rng = np.random.default_rng(0)
    times = np.datetime64("2020-01-01T00:00:00") + np.arange(options.rows) * np.timedelta64(1, "h")
    with open(path, "w") as file:
        file.write(",".join(["date", *(f"c{i}" for i in range(options.channels))]) + "\n")
        file.writelines(f"{when}," + ",".join(f"{value:.4f}" for value in rng.standard_normal(options.channels)) + "\n" for when in times)
    return path


def same(ours: SeriesWindows, plain: Plain) -> None:
    """Both ways give the same windows."""
    assert len(ours) == len(plain), (len(ours), len(plain))
    for index in (0, len(plain) // 3, len(plain) - 1):
        for name, value in plain[index].items():
            assert torch.equal(ours[index][name], value), (index, name)


def zoo_batches(source: SeriesWindows, options: Options) -> Iterator[dict[str, torch.Tensor]]:
    """The trainer's stream."""
    return Stream(source, options.batch, 0, options.batches * (options.rounds + 1)).batches(0, workers=0)


def plain_batches(source: Plain, options: Options) -> Iterator[dict[str, torch.Tensor]]:
    """As many random windows by torch's loader, from places that are drawn beforehand."""
    chosen = np.random.default_rng(0).integers(0, len(source), (options.batches * (options.rounds + 1), options.batch))
    return iter(DataLoader(source, batch_sampler=chosen.tolist()))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.bench_windows")))
