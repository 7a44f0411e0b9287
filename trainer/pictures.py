"""Pictures of a run that need no modality."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.files import write_bytes
from trainer.schedule import ScheduleConfig

POINTS = 2000
"""Most points of a curve; the picture has fewer pixels."""


def draw_schedule(config: ScheduleConfig, steps: int, peak: float, samples_per_step: int, path: Path | str, title: str = "") -> Path:
    """Draw the learning rate over a run of `steps` steps as a PNG and return its path.

    A second axis counts samples; dashed lines mark the milestones. Raises ConfigError when the schedule does not
    fit `steps`, CheckpointError when the file cannot be written.
    """
    path, milestones = Path(path), config.milestones(steps)
    shown = sorted({*np.linspace(0, steps - 1, min(steps, POINTS)).astype(int).tolist(), *milestones})
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(shown, [config.lr(step, steps, peak, samples_per_step) for step in shown], marker="." if steps <= 50 else None)
    for step in milestones:
        axes.axvline(step, color="grey", linestyle="--", linewidth=1)
        side = "left" if step < steps / 2 else "right"
        axes.annotate(f" milestone: \n step {step:,} ", (step, 0.04), xycoords=("data", "axes fraction"), ha=side, fontsize=8)
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter("{x:.3g}")
    figure.suptitle(title)  # above the second axis, which an axes title would run into
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    samples = axes.secondary_xaxis("top", functions=(lambda x: x * samples_per_step, lambda x: x / samples_per_step))
    samples.set_xlabel("samples")
    for axis in (axes.xaxis, samples.xaxis):
        axis.set_major_formatter("{x:,.0f}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(path, buffer.getvalue())
    return path
