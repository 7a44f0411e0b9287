"""What `zoo evaluate`, `zoo predict` and publishing do with time series."""

import math
from pathlib import Path

from modalities.common.model import Model


def write_example(model: Model, folder: Path) -> list[str]:
    """Write `series.csv`: 200 hours of a daily season with a trend, which the snippets of cards may read."""
    rows = (f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{20 + i / 50 + 5 * math.sin(i * math.tau / 24):.3f}" for i in range(200))
    path = folder / "series.csv"
    path.write_text("\n".join(["time,value", *rows, ""]), encoding="utf-8")
    return [str(path)]
