"""Pictures of the timing of circuits: predicted against true times and slacks, and how the slacks are spread."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch_geometric.data import Data

from modalities.graph.circuit_evaluation import Compared, compare, mean_known, r2
from modalities.graph.circuits import CORNERS
from modalities.graph.models.preroutgnn import PreRoutGNN
from modalities.graph.pictures import save
from modalities.graph.preprocess import collate
from trainer.evaluation import evaluating

KINDS = {"early": (slice(0, CORNERS // 2), "tab:blue"), "late": (slice(CORNERS // 2, CORNERS), "tab:orange")}
"""Corners of one kind -> their columns and colour."""
POINTS = 5000
"""Most points of a kind that are drawn."""
BINS = 30


def draw_timing(model: PreRoutGNN, circuits: Sequence[Data], path: Path | str, title: str) -> Path:
    """Arrival times and slacks of circuits (as `CircuitPreprocess` makes them), found level by level, against the true ones, and the slacks as a histogram.

    What the circuits do not tell is left out of the picture.
    """
    with evaluating(model):
        each = [compare(model, collate([circuit]).to(model.device)) for circuit in circuits]
    return draw_compared(each, path, title)


def draw_compared(each: Sequence[dict[str, Compared]], path: Path | str, title: str) -> Path:
    """The same from what `compare` gave of each circuit."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, name, words in zip(axes, ("arrival", "slack"), ("arrival time", "slack at end points")):
        _against(axis, *_numbers(each, name), words, mean_known(r2(*compared[name]) for compared in each))
    _spread(axes[2], *_numbers(each, "slack"))
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def _numbers(each: Sequence[dict[str, Compared]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(found, true), both (M, 4), of all circuits."""
    return tuple(np.concatenate([numbers.cpu().numpy() for numbers in column]) for column in zip(*(compared[name] for compared in each)))


def _against(axis: Axes, found: np.ndarray, true: np.ndarray, words: str, share: float) -> None:
    """Found numbers over true ones, on a line where they agree."""
    known = np.isfinite(true)
    axis.set(xlabel=f"true {words}", ylabel=f"predicted {words}")
    if not known.any():
        axis.text(0.5, 0.5, f"no true {words} is known", ha="center", va="center", transform=axis.transAxes, color="0.4")
        return
    for kind, (columns, colour) in KINDS.items():
        there = known[:, columns]
        points = np.stack([true[:, columns][there], found[:, columns][there]])
        axis.scatter(*points[:, :: max(points.shape[1] // POINTS, 1)], s=5, alpha=0.4, linewidths=0, color=colour, label=kind)
    ends = [min(true[known].min(), found[known].min()), max(true[known].max(), found[known].max())]
    axis.plot(ends, ends, color="0.3", linewidth=0.8)
    axis.set_title(f"{words}: R2 {share:.3f}" if np.isfinite(share) else words, fontsize=10)
    axis.legend(markerscale=3, fontsize=8)


def _spread(axis: Axes, found: np.ndarray, true: np.ndarray) -> None:
    """Histogram of the worst slack of each end point, late corners: predicted, and true where it is known."""
    columns, _ = KINDS["late"]
    worst = {name: values[np.isfinite(values).any(axis=1)] for name, values in (("predicted", found[:, columns]), ("true", true[:, columns]))}
    worst = {name: np.nanmin(values, axis=1) for name, values in worst.items() if len(values)}
    axis.set(xlabel="worst late slack of an end point", ylabel="end points")
    if not worst:
        axis.text(0.5, 0.5, "the circuits ask for no times", ha="center", va="center", transform=axis.transAxes, color="0.4")
        return
    edges = np.histogram_bin_edges(np.concatenate(list(worst.values())), BINS)
    for (name, values), style in zip(worst.items(), (dict(color="tab:orange", alpha=0.5), dict(color="0.2", histtype="step"))):
        axis.hist(values, edges, label=name, **style)
    axis.axvline(0, color="tab:red", linewidth=1)
    late = ", ".join(f"{(values < 0).mean():.0%} {name}" for name, values in worst.items())
    axis.set_title(f"too late (below 0): {late}", fontsize=10)
    axis.legend(fontsize=8)
