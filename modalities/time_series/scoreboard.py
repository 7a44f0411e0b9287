"""What was measured on data sets, and how it is shown: tables, JSON, rows for cards."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modalities.common.evaluation import Row
from modalities.common.run import command
from modalities.time_series import metrics

TASK = "time-series-forecasting"
"""The Hub's name of it."""
REFERENCE = "seasonal_naive"
"""What all others are compared with."""
NAMES = ("MASE", "WQL", "MAE", "MSE")
"""Scores of which ratios are taken."""


@dataclass
class SetScores:
    """What was measured on one data set."""

    name: str
    """The data set."""
    frequency: str | None
    """Its sampling interval."""
    season: int
    """Lag of seasonal naive and MASE."""
    horizon: int
    """Steps ahead."""
    windows: int
    """Windows per series."""
    series: int
    """Channels of all series that were forecast."""
    left_out: int
    """Channels that were too short, or without a value where one is needed."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Forecaster -> score -> value."""
    each: list[dict[str, Any]] = field(default_factory=list)
    """The same of each channel: name, length, forecaster -> scores."""

    def ratio(self, name: str, score: str) -> float:
        """The score of a forecaster over that of seasonal naive."""
        return metrics.ratios(self.scores[name], self.scores[REFERENCE])[score]


def overall(results: Sequence[SetScores]) -> dict[str, dict[str, float]]:
    """Forecaster -> geometric mean over data sets of the ratios to seasonal naive, and the mean coverage."""
    found = {}
    for name in results[0].scores:
        ratios = {score: metrics.geometric_mean([scores.ratio(name, score) for scores in results]) for score in NAMES}
        found[name] = {**ratios, "coverage": mean([scores.scores[name]["coverage"] for scores in results])}
    return found


def table(results: Sequence[SetScores]) -> str:
    """A line per data set: MASE and WQL of each forecaster, with the ratio to seasonal naive; at the end the geometric means."""
    names = [name for name in results[0].scores if name != REFERENCE]
    head = f"{'':<24}{'freq':>6}{'season':>7}{'ahead':>6}{'wins':>5}{'series':>7}  {'naive MASE':>10}{'WQL':>8}"
    lines = [head + "".join(f"  {name[:20]:>20}{'WQL':>8}{'80 %':>7}" for name in names)]
    for scores in results:
        naive = scores.scores[REFERENCE]
        line = f"{scores.name[:23]:<24}{scores.frequency or '-':>6}{scores.season:>7}{scores.horizon:>6}{scores.windows:>5}{scores.series:>7}  {naive['MASE']:>10.3f}{naive['WQL']:>8.3f}"
        for name in names:
            own = scores.scores[name]
            line += f"  {own['MASE']:>12.3f} ({scores.ratio(name, 'MASE'):>4.2f}x){own['WQL']:>8.3f}{100 * own['coverage']:>6.0f}%"
        lines.append(line)
    means = overall(results)
    lines.append(f"{'geometric mean of ratios to seasonal naive':<75}" + "".join(f"  {means[name]['MASE']:>19.3f}x{means[name]['WQL']:>7.3f}x{100 * means[name]['coverage']:>6.0f}%" for name in names))
    left_out = sum(scores.left_out for scores in results)
    return "\n".join(lines + ([f"{left_out} series were too short or without a value, and left out."] if left_out else []))


def as_json(results: Sequence[SetScores]) -> dict[str, Any]:
    """All scores, for a file: overall, per data set, per channel. What is not finite is null."""
    per_set = [vars(scores) for scores in results]
    return _finite({"command": command(), "reference": REFERENCE, "levels": metrics.LEVELS, "overall": overall(results), "sets": per_set})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def rows(results: Sequence[SetScores], name: str, data: str) -> list[Row]:
    """What records and cards hold of a forecaster: the geometric means, and the coverage."""
    means, count = overall(results)[name], sum(scores.series for scores in results)
    row = {"task": TASK, "data": data, "split": "test", "samples": count, "unit": ""}
    words = f"zero-shot, geometric mean over {len(results)} data set(s) of the ratio to seasonal naive"
    found = [{**row, "metric": f"{score} ratio", "detail": words, "value": round(means[score], 4)} for score in ("MASE", "WQL")]
    return [*found, {**row, "metric": "coverage", "detail": "of the 80 % interval, mean over data sets", "value": round(100 * means["coverage"], 1), "unit": "%"}]


def mean(values: Sequence[float]) -> float:
    """Of the finite ones; NaN when there is none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
