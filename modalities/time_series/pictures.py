"""How people look at forecasts: history, truth, point forecast and quantile bands, as PNG files."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.objectives.masked import MaskedSeries
from trainer.data import to_device
from trainer.errors import DataError
from trainer.files import write_bytes
from trainer.objective import Batch

PAST = 3
"""Of a history so many times the horizon is drawn, and at least `LEAST` points."""
LEAST = 96
COLUMNS = 2
HISTORY, TRUTH, AHEAD = "#444444", "#1b7837", "#2166ac"


@dataclass(frozen=True)
class Panel:
    """One channel of one series: what is drawn of it. NaN is missing."""

    label: str
    """Written above it."""
    history: np.ndarray
    """(T,)."""
    point: np.ndarray
    """(H,) forecast."""
    quantiles: np.ndarray | None = None
    """(Q, H) forecast."""
    levels: tuple[float, ...] = ()
    """Their probabilities, rising."""
    truth: np.ndarray | None = None
    """(H,) what happened, where it is known."""
    times: np.ndarray | None = None
    """(T + H,) of the x axis (numbers or datetime64); None counts steps from the first one of the forecast."""


def draw_forecasts(panels: Sequence[Panel], path: Path | str, title: str = "", residuals: bool = False) -> Path:
    """Draw each panel: the end of its history, the truth, the point forecast, and bands between quantiles of mirrored levels. Returns the path of the PNG.

    `residuals` adds, below each panel whose truth is known, truth minus forecast. DataError without a panel.
    """
    if not panels:
        raise DataError("There is no forecast to draw.")
    columns, path = min(len(panels), COLUMNS), Path(path)
    rows = -(-len(panels) // columns)
    heights = [3, 1] if residuals else [3]
    figure = Figure(figsize=(6.5 * columns + 0.5, (3.0 + residuals) * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows * len(heights), columns, squeeze=False, height_ratios=heights * rows)
    for i in range(rows * columns):
        above = grid[i // columns * len(heights), i % columns]
        below = grid[i // columns * len(heights) + 1, i % columns] if residuals else None
        if i < len(panels):
            _draw(above, panels[i])
        else:
            above.axis("off")
        if below is not None:
            _draw_residuals(below, panels[i]) if i < len(panels) and panels[i].truth is not None else below.axis("off")
    return _written(figure, grid[:: len(heights)].flat, path, title)


def draw_batch(model: Forecaster, batch: Batch, path: Path | str, title: str = "") -> Path:
    """Draw a model's forecasts of the first channel of each sample of a batch with `target` and `target_observed`. Returns the path of the PNG."""
    device = next(model.parameters()).device
    said = model.forecast(to_device({k: v for k, v in batch.items() if not k.startswith("target")}, device), batch["target"].shape[2])
    panels = []
    for i in range(len(batch["series"])):
        seen = batch["observed"][i, 0]
        begin = int(seen.int().argmax())  # nothing is observed before it
        history = torch.where(seen, batch["series"][i, 0], torch.nan)[begin:]
        truth = torch.where(batch["target_observed"][i, 0], batch["target"][i, 0], torch.nan)
        quantiles = None if said.quantiles is None else said.quantiles[i, :, 0].cpu().numpy()
        panels.append(Panel(f"window {i}", history.numpy(), said.point[i, 0].cpu().numpy(), quantiles, said.levels, truth.numpy()))
    return draw_forecasts(panels, path, title)


@torch.no_grad()
def draw_masked(objective: MaskedSeries, batch: Batch, path: Path | str, title: str = "") -> Path:
    """Draw the first channel of each sample: what the model sees, what is hidden, and what it says of that. Returns the path of the PNG.

    Samples without `sample_key` get their number as key, so that the same patches are hidden whenever it is drawn.
    """
    batch = to_device({"sample_key": torch.arange(len(batch["series"])), **batch}, objective.model.device)
    found, path = objective.reconstruct(batch), Path(path)
    rows = -(-len(found.past) // COLUMNS)
    figure = Figure(figsize=(6.5 * COLUMNS + 0.5, 2.4 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    lines = ((found.past, found.visible, HISTORY, "seen"), (found.past, found.hidden, TRUTH, "hidden"), (found.in_units(), found.hidden, AHEAD, "reconstruction"))
    for i, axes in enumerate(grid.flat):
        if i >= len(found.past):
            axes.axis("off")
            continue
        begin = int((found.visible | found.hidden)[i, 0].int().argmax())  # nothing is observed before it
        for values, where, colour, label in lines:
            shown = torch.where(where, values, torch.nan)[i, 0, begin:].cpu().numpy()
            axes.plot(shown, color=colour, linewidth=1.1, label=label, marker="." if len(shown) <= 30 else None)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    return _written(figure, grid.flat, path, title)


def _written(figure: Figure, axes: Iterable[Any], path: Path, title: str) -> Path:
    """Write a figure with one legend for all its axes; returns the path."""
    handles = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_bytes(path, buffer.getvalue())
    return path


def _axis(panel: Panel) -> tuple[np.ndarray, np.ndarray, int]:
    """x of the drawn history and of the forecast, and how many points of the history are drawn."""
    length, horizon = len(panel.history), len(panel.point)
    shown = min(length, max(PAST * horizon, LEAST))
    times = panel.times if panel.times is not None else np.arange(-length, horizon)
    return times[length - shown : length], times[length : length + horizon], shown


def _draw(axes, panel: Panel) -> None:
    past, ahead, shown = _axis(panel)
    history = panel.history[len(panel.history) - shown :]
    axes.plot(past, history, color=HISTORY, linewidth=1.1, label="history", marker="." if shown <= 30 else None)
    if panel.quantiles is not None:
        pairs = [(i, len(panel.levels) - 1 - i) for i in range(len(panel.levels) // 2)]
        for order, (low, high) in enumerate(pairs):
            share = panel.levels[high] - panel.levels[low]
            label = f"{share:.0%} interval" if order in (0, len(pairs) - 1) else None
            axes.fill_between(ahead, panel.quantiles[low], panel.quantiles[high], color=AHEAD, alpha=0.10 + 0.06 * order, linewidth=0, label=label)
    if panel.truth is not None:
        axes.plot(ahead, panel.truth, color=TRUTH, linewidth=1.1, label="what happened")
    axes.plot(ahead, panel.point, color=AHEAD, linewidth=1.6, label="forecast", marker="." if len(ahead) == 1 else None)
    axes.axvline(ahead[0], color="grey", linewidth=0.8, linestyle=":")
    axes.set_title(panel.label, fontsize=10)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    if panel.times is None:
        axes.set_xlabel("steps after the end of the history", fontsize=8)
    elif np.issubdtype(panel.times.dtype, np.datetime64):
        axes.tick_params(axis="x", labelrotation=20)


def _draw_residuals(axes, panel: Panel) -> None:
    _, ahead, _ = _axis(panel)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.plot(ahead, panel.truth - panel.point, color=TRUTH, linewidth=1, marker="." if len(ahead) == 1 else None)
    axes.set_ylabel("residual", fontsize=8)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
