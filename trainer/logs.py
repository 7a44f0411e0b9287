"""Callbacks that let people see a run: a progress line, metrics.jsonl, sessions.jsonl, TensorBoard, pictures."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from trainer.callback import Callback
from trainer.devices import hardware
from trainer.files import TEMPORARY, write_text
from trainer.objective import Objective

if TYPE_CHECKING:
    from trainer.trainer import Trainer

NARROWEST = 4
"""Characters that a moving bar keeps beside the numbers; on a narrow terminal the last numbers are left out first."""


class ProgressBar(Callback):
    """Loss, rate, wait for data, lr and time left: a moving bar on a terminal, else a plain line every `seconds` seconds."""

    def __init__(self, console: Console | None = None, seconds: float = 15.0) -> None:
        self.console, self.seconds = console or Console(stderr=True), seconds
        self.bar: Progress | None = None
        self.diverted: list[tuple[logging.StreamHandler, Any]] = []
        self.first, self.began, self.printed = 0, 0.0, 0.0
        self.numbers: list[str] = []

    def start(self, trainer: "Trainer") -> None:
        self.first, self.began, self.printed = trainer.step, time.monotonic(), 0.0
        if trainer.processes.main and self.console.is_terminal:
            whole = Column(no_wrap=True)  # the bar gives way, not the numbers
            texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False, table_column=whole) for name in ("facts", "left")]
            columns = (BarColumn(bar_width=None), MofNCompleteColumn(table_column=whole), *texts)
            self.bar = Progress(*columns, console=self.console, expand=True)
            self.task = self.bar.add_task("", total=trainer.steps, completed=trainer.step, facts="", left="")
            self._divert()

    def after_step(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.step)

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        self.numbers = facts(metrics)
        spent = time.monotonic() - self.began
        left = clock(spent / max(trainer.step - self.first, 1) * (trainer.steps - trainer.step))
        if self.bar is not None:
            self._show(trainer, left)
        elif spent - self.printed >= self.seconds and trainer.step < trainer.steps:
            self.printed = spent
            self._print(trainer, f"{left} left")

    def end_of_phase(self, trainer: "Trainer") -> None:
        spent = clock(time.monotonic() - self.began)
        if self.bar is not None:
            self.bar.update(self.task, total=trainer.steps)  # less than at the start when it ended early
            self._show(trainer, spent)
        else:
            self._print(trainer, f"done in {spent}")

    def close(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.stop()
        for handler, stream in self.diverted:
            handler.setStream(stream)
        self.bar, self.diverted = None, []

    def _print(self, trainer: "Trainer", end: str) -> None:
        if trainer.processes.main:
            line = "  ".join([f"step {trainer.step:,}/{trainer.steps:,}", *self.numbers, end])
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self, trainer: "Trainer", time_text: str) -> None:
        """Put the numbers beside the bar, as many as there is room for."""
        room = self.console.width - NARROWEST - len(f" {trainer.steps}/{trainer.steps}  {time_text}")
        shown = list(self.numbers)
        while len(shown) > 1 and len("  ".join(shown)) > room:
            shown.pop()
        self.bar.update(self.task, facts="  ".join(shown), left=time_text)

    def _divert(self) -> None:
        """Start the bar, and let log lines go where rich prints them above it: a handler keeps the stream it was made with."""
        before = (sys.stdout, sys.stderr)
        self.bar.start()
        for handler in [*logging.getLogger().handlers, *logging.getLogger("zoo").handlers]:
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                self.diverted.append((handler, handler.stream))
                handler.setStream((sys.stdout, sys.stderr)[before.index(handler.stream)])


class MetricsFile(Callback):
    """One JSON object per log interval in `metrics.jsonl`; a value that is not finite is null. On resume, lines after the checkpoint are dropped."""

    def __init__(self) -> None:
        self.file: IO[str] | None = None

    def start(self, trainer: "Trainer") -> None:
        if trainer.processes.main:
            path = trainer.folder / "metrics.jsonl"
            kept = [line for line in read_lines(path) if line["step"] <= trainer.step] if trainer.step else []
            write_text(path, "".join(map(_json_line, kept)))  # at once: a kill in between must not lose the lines of days
            self.file = open(path, "a", encoding="utf-8")

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        if self.file is not None:
            line = {"step": trainer.step, "samples": trainer.plan.start(trainer.step), "seconds": round(trainer.seconds, 3), **metrics}
            self.file.write(_json_line(line))
            self.file.flush()

    def close(self, trainer: "Trainer") -> None:
        if self.file is not None:
            self.file.close()


class Sessions(Callback):
    """One JSON object per start of the run in `sessions.jsonl`: where it began or went on, when, on what, and `facts` of the caller."""

    def __init__(self, facts: dict[str, Any] | None = None) -> None:
        self.facts = facts or {}

    def start(self, trainer: "Trainer") -> None:
        if trainer.processes.main:
            line = {
                "step": trainer.step,
                "steps": trainer.steps,
                "batch_size": trainer.config.batch_size,
                "samples": len(trainer.source),
                "started": datetime.now(UTC).isoformat(timespec="seconds"),
                "hardware": hardware(trainer.device, trainer.processes.world),
                **self.facts,
            }
            path = trainer.folder / "sessions.jsonl"
            write_text(path, "".join(map(_json_line, [*read_lines(path), line])))


class PictureBoard(Protocol):
    """Where pictures can be put besides their folder."""

    def picture(self, trainer: "Trainer", path: Path) -> None:
        """Show the picture file of this step."""


class TensorBoard(Callback):
    """Scalars and pictures in `tensorboard/`; a value that is not finite is left out."""

    def __init__(self) -> None:
        self.writer = None

    def start(self, trainer: "Trainer") -> None:
        if trainer.processes.main:
            from torch.utils.tensorboard import SummaryWriter  # imported late: it takes a second

            self.writer = SummaryWriter(str(trainer.folder / "tensorboard"), purge_step=trainer.step + 1 if trainer.step else None)

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in finite(metrics).items():
                self.writer.add_scalar(name, value, trainer.step)

    def picture(self, trainer: "Trainer", path: Path) -> None:
        """Show the picture file of this step."""
        if self.writer is not None:
            self.writer.add_image(picture_tag(path), read_picture(path), trainer.step, dataformats="HWC")
            if (moving := path.with_suffix(".gif")).exists():
                self.writer.file_writer.add_summary(_animation(moving), trainer.step)

    def close(self, trainer: "Trainer") -> None:
        if self.writer is not None:
            self.writer.close()


def _animation(path: Path) -> Any:
    """A GIF as it is, for TensorBoard's page of images, which plays it. (`add_video` would need a further library to make one.)"""
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as image:
        width, height = image.size
    return Summary(value=[Summary.Value(tag="animation", image=Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()))])


class Pictures(Callback):
    """Calls `draw(objective, path, title)` at evenly spread steps and puts the result in `pictures/` and on the boards.

    What to draw is the modality's business (reconstructions, spectrograms, forecasts). The files are called by `name` and the step.
    An animation may be written beside the picture, of the same name with the ending .gif.
    """

    def __init__(self, draw: Callable[[Objective, Path, str], None], *boards: PictureBoard, name: str = "step") -> None:
        self.draw, self.boards, self.name = draw, boards, name
        self.drawn = 0

    def start(self, trainer: "Trainer") -> None:
        self.drawn = trainer.step

    def after_step(self, trainer: "Trainer") -> None:
        if trainer.step == trainer.steps or trainer.step % max(trainer.steps // trainer.config.pictures, 1) == 0:
            self._draw(trainer)

    def end_of_phase(self, trainer: "Trainer") -> None:
        if self.drawn != trainer.step:  # it ended early
            self._draw(trainer)

    def _draw(self, trainer: "Trainer") -> None:
        self.drawn, objective = trainer.step, trainer.plain()
        if not trainer.processes.main:
            return
        path = trainer.folder / "pictures" / f"{self.name}-{trainer.step:08d}.png"
        unfinished = path.with_name(TEMPORARY + path.name)
        path.parent.mkdir(exist_ok=True)
        self.draw(objective, unfinished, f"step {trainer.step:,} of {trainer.steps:,}")
        for drawn in sorted(path.parent.glob(f"{unfinished.stem}.*")):  # what lies beside the picture under its name, too: an animation
            drawn.replace(path.with_suffix(drawn.suffix))
        for board in self.boards:
            board.picture(trainer, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl or sessions.jsonl that have a step, in order; lines that do not read (cut short, say) are left out."""
    lines = []
    if path.exists():
        for text in path.read_bytes().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # of JSON or of UTF-8
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int) and 0 <= line["step"] < 2**63:
                lines.append(line)
    return lines


def picture_tag(path: Path) -> str:
    """What boards call the picture files of one name: "pictures" for the main one of each step, "pictures/attention" for another."""
    name = path.stem.partition("-")[0]
    return "pictures" if name == "step" else f"pictures/{name}"


def read_picture(path: Path) -> Any:
    """A PNG file as an array (height, width, 3) of floats in 0..1."""
    import matplotlib.image

    return matplotlib.image.imread(path)[..., :3]


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def facts(metrics: dict[str, float]) -> list[str]:
    """The numbers that a person watches, in words, the most important first; what was not measured is left out."""
    show = {
        "loss": lambda v: f"loss {v:.4f}" if v == 0 or 1e-3 <= abs(v) < 1e4 else f"loss {v:.3e}",
        "samples_per_second": lambda v: f"{v:,.0f} samples/s" if v >= 10 else f"{v:.2g} samples/s",
        "data_wait": lambda v: f"data wait {100 * v:.0f}%",
        "lr": lambda v: f"lr {v:.1e}",
    }
    return [word(metrics[name]) for name, word in show.items() if name in metrics]


def clock(seconds: float) -> str:
    """A time as 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _json_line(values: dict[str, Any]) -> str:
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(clean, allow_nan=False) + "\n"
