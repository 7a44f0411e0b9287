"""How fast series are generated, and how they look: `python -m tools.bench_synthetic [--sheet PNG]`.

Each prior alone, then the whole mix, block after block as training draws it.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from modalities.time_series.synthetic.corpus import PRIORS, Mix, block
from modalities.time_series.synthetic.windows import BLOCK, SyntheticData

COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    length: int = 1024
    """Steps of a series."""
    blocks: int = 4
    """Blocks of the whole mix."""
    sheet: Path | None = None
    """PNG to draw a few series of each prior in."""


def main(options: Options) -> int:
    """Measure and print."""
    for name, prior in PRIORS.items():
        began = time.perf_counter()
        prior(np.random.default_rng(0), 256, options.length)
        print(f"{name:<18}{256 / (time.perf_counter() - began):>9,.0f} series/s")
    began = time.perf_counter()
    for number in range(options.blocks):
        block(Mix(), 0, number, BLOCK, options.length)
    print(f"{'whole mix':<18}{options.blocks * BLOCK / (time.perf_counter() - began):>9,.0f} series/s of {options.length} steps, load average {os.getloadavg()[0]:.1f}")
    windows = SyntheticData(seed=1).build(512, 96)
    began = time.perf_counter()
    for number in range(options.blocks):
        windows.fetch(range(number * BLOCK, (number + 1) * BLOCK))
    print(f"{'windows':<18}{options.blocks * BLOCK / (time.perf_counter() - began):>9,.0f} of 512 + 96 steps/s")
    if options.sheet is not None:
        draw(options.sheet)
    return 0


def draw(path: Path) -> None:
    """A row of series for each prior."""
    figure = Figure(figsize=(3 * COLUMNS, 1.5 * len(PRIORS)), layout="constrained")
    for row, (name, prior) in zip(figure.subplots(len(PRIORS), COLUMNS), PRIORS.items()):
        for axes, values in zip(row, prior(np.random.default_rng(0), COLUMNS, 256).values):
            axes.plot(values, linewidth=0.7)
            axes.tick_params(labelsize=5)
        row[0].set_title(name, fontsize=9, loc="left")
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.bench_synthetic")))
