"""Callbacks that let people see a run: a progress line, metrics.jsonl, TensorBoard, pictures."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.callback import Callback
from trainer.objective import Objective

if TYPE_CHECKING:
    from trainer.trainer import Trainer

log = logging.getLogger("zoo")


class ProgressBar(Callback):
    """Loss, rate and time left: a moving bar on a terminal, else a plain line every `seconds` seconds."""

    def __init__(self, console: Console | None = None, seconds: float = 15.0) -> None:
        self.console, self.seconds = console or Console(stderr=True), seconds
        self.bar: Progress | None = None
        self.printed = self.began = 0.0

    def start(self, trainer: "Trainer") -> None:
        self.began = self.printed = time.monotonic()
        self.first = trainer.step
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("training", total=trainer.steps, completed=trainer.step, facts="")
            self.bar.start()

    def after_step(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.step)

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        facts = f"loss {metrics['loss']:.4f}  {metrics['samples_per_second']:,.0f} samples/s"
        if self.bar is not None:
            self.bar.update(self.task, facts=facts)
        elif time.monotonic() - self.printed >= self.seconds or trainer.step == trainer.steps:
            self.printed = time.monotonic()
            left = (self.printed - self.began) / max(trainer.step - self.first, 1) * (trainer.steps - trainer.step)
            self.console.print(f"step {trainer.step:,}/{trainer.steps:,}  {facts}  {left:.0f} s left", highlight=False, soft_wrap=True)

    def close(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.stop()


class MetricsFile(Callback):
    """One JSON object per log interval in `metrics.jsonl`. On resume, lines after the checkpoint are dropped."""

    def __init__(self) -> None:
        self.file: IO[str] | None = None

    def start(self, trainer: "Trainer") -> None:
        path = trainer.folder / "metrics.jsonl"
        kept = [line for line in read_lines(path) if line["step"] <= trainer.step] if trainer.step else []
        self.file = open(path, "w", encoding="utf-8")
        for line in kept:
            self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        line = {"step": trainer.step, "samples": trainer.step * trainer.config.batch_size, "seconds": round(trainer.seconds, 3), **metrics}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()

    def close(self, trainer: "Trainer") -> None:
        if self.file is not None:
            self.file.close()


class TensorBoard(Callback):
    """Scalars in `tensorboard/`."""

    def __init__(self) -> None:
        self.writer = None

    def start(self, trainer: "Trainer") -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported late: it takes a second

        self.writer = SummaryWriter(str(trainer.folder / "tensorboard"), purge_step=trainer.step + 1 if trainer.step else None)

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, trainer.step)

    def close(self, trainer: "Trainer") -> None:
        if self.writer is not None:
            self.writer.close()


class Pictures(Callback):
    """Calls `draw(objective, path, title)` at evenly spread steps and puts the result in `pictures/` and TensorBoard.

    What to draw is the modality's business (reconstructions, spectrograms, forecasts).
    """

    def __init__(self, draw: Callable[[Objective, Path, str], None], tensorboard: TensorBoard | None = None) -> None:
        self.draw, self.tensorboard = draw, tensorboard

    def after_step(self, trainer: "Trainer") -> None:
        if trainer.step == trainer.steps or trainer.step % max(trainer.steps // trainer.config.pictures, 1) == 0:
            objective = trainer.plain()
            if not trainer.processes.main:
                return
            path = trainer.folder / "pictures" / f"step-{trainer.step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            self.draw(objective, path, f"step {trainer.step:,} of {trainer.steps:,}")
            if self.tensorboard is not None and self.tensorboard.writer is not None:
                import matplotlib.image

                image = matplotlib.image.imread(path)[..., :3]
                self.tensorboard.writer.add_image("pictures", image, trainer.step, dataformats="HWC")


def read_lines(path: Path) -> list[dict[str, float]]:
    """The objects of a metrics.jsonl; a last line that was cut short is left out."""
    lines = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return lines
