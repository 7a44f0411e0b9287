"""What `zoo evaluate`, `zoo predict` and publishing do with time series."""

import math
from pathlib import Path
from typing import Any

from modalities.common.model import Model
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.predicting import forecast_files
from trainer.errors import ConfigError, ModelError


def evaluate(model: Model, path: str, per_class: int | None = None) -> list[dict[str, Any]]:
    """Zero-shot scores on a file or folder of series, or on a built-in collection, as ratios to seasonal naive; prints the table of its data sets."""
    from modalities.time_series.evaluation import evaluate as scores  # scikit-learn comes with the rows
    from modalities.time_series.scoreboard import rows, table
    from modalities.time_series.sets import open_sets

    if per_class is not None:
        raise ConfigError(f"Series have no classes, found per_class={per_class}. Leave it out.")
    if not isinstance(model, Forecaster):
        raise ModelError(f"zoo evaluate does not know what to measure on a {type(model).__name__}.")
    found = scores(model, open_sets(path))
    print(table(found))
    return rows(found, "model", path)


def predict(model: Model, files: list[Path], to: Path | None) -> str:
    """Forecasts of the series in files, as far ahead as is usual for them, as a CSV and a PNG."""
    return forecast_files(model, files, to)


def predict_ahead(model: Model, files: list[Path], to: Path | None, horizon: int) -> str:
    """The same so many steps ahead."""
    return forecast_files(model, files, to, horizon)


def write_example(model: Model, folder: Path) -> list[list[float]]:
    """Write `series.csv`: 200 hours of a daily season with a trend, which the snippets of cards may read. Returns its series as `model.preprocess` takes them."""
    values = [round(20 + i / 50 + 5 * math.sin(i * math.tau / 24), 3) for i in range(200)]
    rows = (f"2024-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{value:.3f}" for i, value in enumerate(values))
    (folder / "series.csv").write_text("\n".join(["time,value", *rows, ""]), encoding="utf-8")
    return [values]
