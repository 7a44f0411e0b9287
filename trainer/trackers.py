"""Experiment trackers (Weights & Biases, MLflow, Comet, ...) through accelerate: scalars, the recipe, pictures."""

import contextlib
import logging
import os
import random
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import tracking
from accelerate.utils import LoggerType

from trainer.callback import Callback
from trainer.errors import ConfigError, MissingDependencyError, TrainingError, did_you_mean
from trainer.logs import finite, picture_tag, read_picture

if TYPE_CHECKING:
    from trainer.trainer import Trainer

log = logging.getLogger("zoo")

PROJECT = "modality-zoo"
"""Name of the project (experiment) that runs are put under, unless the tracker's own environment variable says otherwise."""
PATIENCE = 3
"""After so many failures in a row a tracker is left alone: an unreachable server must not stop or slow a run."""
ONE_PICTURE = ("aim", "clearml")
"""Trackers whose `log_images` takes one picture, not several."""


class Trackers(Callback):
    """Sends what is logged to trackers, by their names in accelerate; only on the main process.

    `config` are the fields of the recipe by dotted name. On resume the same run of W&B and of MLflow goes on; other
    trackers begin a new one. A tracker that cannot start stops the run before its first step (TrainingError); one that
    fails later is warned about and, when it goes on failing, left out.

    Raises ConfigError for a name that accelerate does not know, MissingDependencyError for one that is not installed.
    """

    def __init__(self, names: tuple[str, ...], config: dict[str, Any]) -> None:
        for name in names:
            require(name)
        self.names, self.config = tuple(dict.fromkeys(names)), config
        self.active: dict[str, tracking.GeneralTracker] = {}
        self.runs: dict[str, str] = {}
        """Identifiers of the runs, by tracker, for going on with them."""
        self.failures = dict.fromkeys(self.names, 0)

    def start(self, trainer: "Trainer") -> None:
        if trainer.processes.main:
            for name in self.names:
                try:
                    with generators_kept():
                        self.active[name] = self._started(name, trainer.folder)
                except Exception as error:  # each of these libraries has errors of its own
                    reason = str(error).strip().rstrip(".")
                    raise TrainingError(
                        f"The tracker {name} did not start: {reason}. Check its settings (account, address, offline mode), or leave it out of train.trackers."
                    ) from error

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        self._send(lambda tracker: tracker.log(finite(metrics), step=trainer.step))

    def picture(self, trainer: "Trainer", path: Path) -> None:
        """Show the picture file of this step on the trackers that take pictures."""

        def show(tracker: tracking.GeneralTracker) -> None:
            if hasattr(tracker, "log_images"):
                image = (read_picture(path) * 255).round().astype("uint8")
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({picture_tag(path): image if tracker.name in ONE_PICTURE else image[None]}, step=trainer.step, **layout)

        self._send(show)

    def close(self, trainer: "Trainer") -> None:
        for tracker in self.active.values():
            try:
                finish(tracker, done=trainer.step >= trainer.steps)
            except Exception as error:  # the run may be ending with another error, which is the one to see
                log.warning("The tracker %s did not close: %s", tracker.name, error)
        self.active = {}

    def state_dict(self) -> dict[str, Any]:
        return {"runs": dict(self.runs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.runs = dict(state.get("runs", {}))

    def _started(self, name: str, folder: Path) -> tracking.GeneralTracker:
        """The tracker `name`, started: with the run that it had, or with a new one that knows the recipe."""
        known = self.runs.get(name)
        kind, options = tracking.LOGGER_TYPE_TO_CLASS[name], {}
        places = [PROJECT, str(folder / "trackers")] if kind.requires_logging_directory else [PROJECT]
        if name == "wandb":
            places = [os.environ.get("WANDB_PROJECT", PROJECT)]
            self.runs[name] = known or uuid.uuid4().hex[:8]
            options = {"id": self.runs[name], "resume": "allow", "dir": str(folder), "name": folder.name}
        elif name == "mlflow":
            options = {"run_id": known, "run_name": folder.name}
        tracker = kind(*places, **options)
        tracker.start()
        if name == "mlflow":
            self.runs[name] = tracker.tracker.info.run_id
        if known is None:
            tracker.store_init_configuration({k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in self.config.items()})
        return tracker

    def _send(self, action: Callable[[tracking.GeneralTracker], None]) -> None:
        for name, tracker in self.active.items():
            if self.failures[name] < PATIENCE:
                try:
                    with generators_kept():
                        action(tracker)
                    self.failures[name] = 0
                except Exception as error:  # whatever goes wrong there, weeks of computing go on here
                    self.failures[name] += 1
                    rest = "; nothing more is sent to it" if self.failures[name] == PATIENCE else ""
                    log.warning("The tracker %s took nothing at this step: %s%s", name, error, rest)


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Undo draws of random numbers inside the block: some trackers invent names with them, and training must not notice."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def finish(tracker: tracking.GeneralTracker, done: bool) -> None:
    """Close a tracker. Where it can, a run that is not done is shown as failed; going on with the run changes that again."""
    if tracker.name == "wandb" and not done:
        tracker.tracker.finish(exit_code=1)
    elif tracker.name == "mlflow" and not done:
        import mlflow

        mlflow.end_run("FAILED")
    else:
        tracker.finish()


def require(name: str) -> None:
    """Raise ConfigError unless accelerate knows a tracker of this name, MissingDependencyError unless it is installed."""
    if name not in tracking.LOGGER_TYPE_TO_CLASS:
        known = sorted(tracking.LOGGER_TYPE_TO_CLASS)
        raise ConfigError(f"train.trackers: {name!r} is no tracker.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    if name in LoggerType and LoggerType(name) not in tracking.get_available_trackers():
        package = "modality-zoo[wandb]" if name == "wandb" else name.replace("_", "-")
        raise MissingDependencyError(f"train.trackers: {name} is not installed: pip install '{package}'.")
