"""The curves of a run as a picture: what metrics.jsonl holds, one small panel for each thing to watch."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from trainer.files import write_bytes
from trainer.logs import read_lines

Lines = list[dict[str, Any]]
"""The objects of a metrics.jsonl."""

ACCOUNTING = ("step", "samples", "seconds", "memory_gb", "tflops", "skipped", "spikes")
"""Names in metrics.jsonl that have no panel of their own."""
SMOOTH_FROM = 100
"""Points from which on a smoothed line is drawn over the raw one, a faint one."""
MOST_PANELS = 30
LARGEST = 1e100
"""Greater numbers are taken as not finite: axes cannot show them."""
BLUE, RED, ORANGE, GREY = "#3b82d0", "#d64545", "#d98a1b", "#808080"
DARK, MIDDLE = "#333333", "#7d7d7d"
"""Text on white, and text that can be read on white and on black."""


@dataclass(frozen=True)
class Panel:
    """One curve over the steps."""

    title: str
    """What it shows, in words, with the unit."""
    steps: np.ndarray
    """(N,) increasing."""
    values: np.ndarray
    """(N,) finite."""
    last: float
    """Last step that any panel shows, so that all have the same axis."""
    falls: bool = False
    """It falls fast at first, as losses do: draw a logarithmic axis when the values are positive and span more than a decade,
    else leave out the first twentieth where it would press all that follows flat."""
    marks: list[tuple[str, str, str, np.ndarray]] = field(default_factory=list)
    """(label, colour, marker, steps) of events, drawn along the lower edge."""
    resumed: tuple[float, ...] = ()
    """Steps at which the run went on after a stop."""


def draw_curves(folder: Path | str) -> Path:
    """Draw the curves of the run in `folder` to its `curves.png` and return that path.

    A run without readable metrics gives a picture that says so. Raises CheckpointError when the disk does not take it.
    """
    folder = Path(folder)
    found = panels(read_lines(folder / "metrics.jsonl"), read_lines(folder / "sessions.jsonl"))
    write_bytes(folder / "curves.png", sheet(found))
    return folder / "curves.png"


def panels(lines: Lines, sessions: Lines = ()) -> list[Panel]:
    """What there is to draw: loss, evaluations, parts of the loss, gradient norm, lr, rate, wait for data, utilisation."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    events = [
        (label, colour, marker, steps[counts > 0])
        for label, name, colour, marker in (("skipped step", "skipped", RED, "v"), ("spike", "spikes", ORANGE, "^"))
        for steps, counts in [series(lines, name)]
        if counts.any()
    ]
    resumed = tuple(line["step"] for line in sessions[1:] if 0 < line["step"] < LARGEST)
    known: dict[str, tuple[str, float]] = {
        "loss": ("Loss", 1),
        "grad_norm": ("Gradient norm", 1),
        "lr": ("Learning rate", 1),
        "samples_per_second": ("Samples per second", 1),
        "data_wait": ("Waiting for data, % of the time", 100),
        "mfu": ("Model FLOPs utilisation, %", 100),
    }
    evaluations = [name for name in names if name.startswith("eval/")]
    parts = [name for name in names if name not in (*known, *ACCOUNTING, *evaluations)]
    last = max((line["step"] for line in lines if _is_number(line["step"])), default=0)
    found = []
    for name in dict.fromkeys(["loss", *evaluations, *parts, *known]):
        steps, values = series(lines, name)
        title, scale = known.get(name, (f"{name.removeprefix('eval/')} (evaluation)" if name in evaluations else name, 1))
        if len(values):
            found.append(Panel(title, steps, values * scale, last, name in ("loss", "grad_norm", *parts), *((events, resumed) if name == "loss" else ())))
    return found[:MOST_PANELS]


def series(lines: Lines, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (N,), (N,) of one metric where it is a finite number, by step."""
    points = [(line["step"], line[name]) for line in lines if _is_number(line.get(name)) and _is_number(line["step"])]
    points.sort(key=lambda p: p[0])
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def smoothed(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a line through the noise: medians over a twentieth of the points (a spike does not move them)."""
    count = len(panel.values)
    middles = np.linspace(0, count - 1, min(count, 500)).round().astype(int)
    reach = np.minimum(max(count // 40, 2), np.maximum(np.minimum(middles, count - 1 - middles), 2))
    medians = [np.median(panel.values[max(m - r, 0) : m + r + 1]) for m, r in zip(middles, reach)]
    return panel.steps[middles], np.array(medians)


def sheet(found: list[Panel]) -> bytes:
    """All panels on white, the first in large: the bytes of a PNG."""
    rows = 2 + math.ceil(max(len(found) - 3, 0) / 3)

    def draw(figure: Figure) -> None:
        if not found:
            figure.text(0.5, 0.5, "No metrics have been logged yet", ha="center", va="center", color=DARK)
            return
        grid = figure.add_gridspec(rows, 3)
        if len(found) == 1:
            places = [grid[:, :]]
        else:
            places = [grid[:2, :2], grid[0, 2], grid[1, 2], *(grid[2 + i // 3, i % 3] for i in range(len(found) - 3))]
        for place, panel in zip(places, found):
            axes = figure.add_subplot(place)
            axes.set_title(panel.title if len(panel.title) <= 40 else panel.title[:37] + "...", parse_math=False)
            plot(axes, panel)

    return _png((13, 2.6 * rows), 120, DARK, "white", draw)


def picture(panel: Panel, wide: bool = False) -> bytes:
    """One panel without its title on a transparent ground, readable on white and on black: the bytes of a PNG."""
    return _png((9, 3.4) if wide else (4.4, 2.5), 160, MIDDLE, "none", lambda figure: plot(figure.add_subplot(), panel))


def plot(axes: Axes, panel: Panel) -> None:
    """Draw one panel into axes."""
    steps, values = panel.steps, panel.values
    few = len(values) < 30
    many = len(values) >= SMOOTH_FROM
    axes.plot(steps, values, color=BLUE, alpha=0.3 if many else 1, linewidth=1 if many else 1.6, marker="o" if few else None, markersize=3)
    if many:
        axes.plot(*smoothed(panel), color=BLUE, linewidth=1.8)
    _set_height(axes, panel)
    for i, step in enumerate(panel.resumed):
        axes.axvline(step, color=GREY, linewidth=0.8, linestyle=":", label=None if i else "resumed")
    for label, colour, marker, places in panel.marks:
        edge = np.full_like(places, 0.03)
        axes.plot(places, edge, marker, color=colour, markersize=5, transform=axes.get_xaxis_transform(), label=label, clip_on=False)
    if panel.marks or panel.resumed:
        axes.legend(frameon=False, loc="upper right")
    axes.set_xlim(-0.02 * panel.last, 1.02 * panel.last + 1e-9)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step")


def _set_height(axes: Axes, panel: Panel) -> None:
    """The vertical axis of a value that falls fast at first (see `Panel.falls`)."""
    values = panel.values
    if panel.falls and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if values.max() < 300 * values.min() else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.falls and len(values) >= SMOOTH_FROM:
        rest = values[len(values) // 20 :]
        low, room = rest.min(), np.ptp(rest)
        if values.max() - values.min() > 3 * room > 0:  # the first twentieth would press all that follows flat
            axes.set_ylim(low - 0.1 * room, low + 1.2 * room)
            axes.text(0.09, 0.94, f"begins at {values[0]:.4g}", transform=axes.transAxes, color=GREY, fontsize=8)


def _png(size: tuple[float, float], dpi: int, ink: str, ground: str, draw: Callable[[Figure], None]) -> bytes:
    style = {
        "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": GREY, "grid.alpha": 0.25, "grid.linewidth": 0.6, "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": ink,
        "xtick.color": ink, "ytick.color": ink, "axes.facecolor": "none",
    }  # fmt: skip
    buffer = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        figure = Figure(figsize=size, layout="constrained", facecolor=ground)  # without pyplot: no global state, no display
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
