"""Evaluators: what can be measured on an objective, inside training and alone, with the same result.

A measurement leaves no trace: modes and random generators are afterwards as before, so a run with evaluation
has the losses of a run without. It draws the same random numbers (masks, say) whenever it is made.
It computes in the precision of the weights, without autocast, so that training and `zoo evaluate` agree.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from trainer.callback import Callback
from trainer.errors import CheckpointError, ConfigError, ModelError, did_you_mean
from trainer.objective import Objective
from trainer.randomness import seeded

if TYPE_CHECKING:
    from trainer.trainer import Trainer

log = logging.getLogger("zoo")

PREFIX = "eval/"
"""Put before the names of evaluated values in the metrics."""


class Evaluator(Protocol):
    """Something that can be measured: a validation loss, a supervised metric, a probe on frozen features.

    It is called by `measure` only, with a whole (unsharded) objective in evaluation mode, without gradients.
    """

    name: str
    """What is measured on which data, in words, for messages."""
    higher_is_better: dict[str, bool]
    """Name of each value that a call gives -> whether a larger value is the better one."""

    def __call__(self, objective: Objective) -> dict[str, float]: ...


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation inside training."""

    every: int | None = None
    """Steps between evaluations; there is one more at the last step. Null: no evaluation inside training."""
    best: str | None = None
    """Value that decides which checkpoint is the best (eval/loss, eval/accuracy, ...): that one is kept and exported. Null: the last is exported."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a better value of `best`. Null: train to the end."""

    def __post_init__(self) -> None:
        for name in ("every", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"train.evaluate.{name} must be at least 1 (or null), found {getattr(self, name)}.")
        if self.best is not None and self.every is None:
            raise ConfigError(f"train.evaluate.best={self.best!r} needs train.evaluate.every, the number of steps between evaluations; found null.")
        if self.patience is not None and self.best is None:
            raise ConfigError(f"train.evaluate.patience={self.patience} needs train.evaluate.best, the value that has to improve; found null.")


def measure(evaluators: Sequence[Evaluator], objective: Objective) -> dict[str, float]:
    """The values of all evaluators on an objective. A value that is not finite is left out, with a warning.

    Each evaluator draws from generators with the same seed, whatever was measured before it.
    """
    values: dict[str, float] = {}
    for evaluator in evaluators:
        with _undisturbed(objective):
            found = evaluator(objective)
        if found.keys() != evaluator.higher_is_better.keys():
            raise ModelError(f"The evaluator {evaluator.name!r} announces {list(evaluator.higher_is_better)} and gave {list(found)}.")
        for name, value in found.items():
            if math.isfinite(value):
                values[name] = float(value)
            else:
                log.warning("%s: %s is %s and is left out. Look for NaN and extreme values in the data and the weights.", evaluator.name, name, value)
    return values


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every part is in the mode that it was in: frozen parts stay in evaluation mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def _undisturbed(objective: Objective) -> Iterator[None]:
    """Evaluation mode, no gradients, fixed random numbers; afterwards all goes on as if nothing had happened."""
    devices = {p.device for p in objective.parameters() if p.device.type == "cuda"}
    with evaluating(objective), seeded(0), torch.random.fork_rng([d.index for d in devices]):
        for device in devices:
            torch.cuda.default_generators[device.index].manual_seed(0)
        yield


class Evaluate(Callback):
    """Measures at every `config.every` steps and at the last one; keeps and finally loads the best checkpoint; stops early.

    Put it before callbacks that change the model at the end of training. Raises ConfigError when there is nothing
    to measure, when two evaluators give values of one name, or when `config.best` is none of these names.
    """

    def __init__(self, evaluators: Sequence[Evaluator], config: EvalConfig) -> None:
        self.evaluators, self.config = list(evaluators), config
        self.higher_is_better: dict[str, bool] = {}
        for evaluator in self.evaluators:
            for name, higher in evaluator.higher_is_better.items():
                if PREFIX + name in self.higher_is_better:
                    raise ConfigError(f"Two evaluators give a value {name!r}, the second is {evaluator.name!r}. Leave one out.")
                self.higher_is_better[PREFIX + name] = higher
        if not self.evaluators:
            raise ConfigError(
                f"train.evaluate.every={config.every}, but there is nothing to evaluate: this recipe has neither held-out nor labelled data. "
                "Give such data, or set train.evaluate.every to null."
            )
        if config.best is not None and config.best not in self.higher_is_better:
            raise ConfigError(
                f"train.evaluate.best is {config.best!r}, which is not measured here.{did_you_mean(config.best, self.higher_is_better)} "
                f"Measured: {', '.join(self.higher_is_better)}."
            )
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.since = 0
        """Evaluations in a row that were not better than the best."""
        self.exported = True
        """False when the best checkpoint could not be loaded at the end."""

    def after_step(self, trainer: "Trainer") -> None:
        if trainer.step % self.config.every and trainer.step != trainer.steps:
            return
        began = time.perf_counter()
        values = self._values(trainer)
        trainer.record(values)
        better = self._judge(trainer, values)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        log.info("step %s: %s%s (%.1f s)", f"{trainer.step:,}", shown or "nothing finite", " (the best so far)" if better else "", time.perf_counter() - began)
        if self.config.patience is not None and self.since >= self.config.patience and trainer.step < trainer.steps:
            trainer.finish_early(f"{self.config.best} has not become better in {self.since} evaluations ({self._best_in_words()})")

    def end_of_phase(self, trainer: "Trainer") -> None:
        if self.best_step is None or self.best_step == trainer.step:
            return
        try:
            trainer.load_best()
            log.info("The best weights take the place of the last ones: %s", self._best_in_words())
        except CheckpointError as error:  # the last weights are worth having, too
            self.exported = False
            log.warning("The last weights are exported, since the best ones (%s) cannot be loaded: %s", self._best_in_words(), error)

    def best(self) -> dict[str, Any] | None:
        """Facts on the best checkpoint for the record: metric, value, step, and whether it is what was exported."""
        if self.best_step is None:
            return None
        return {"metric": self.config.best, "value": self.best_value, "step": self.best_step, "exported": self.exported}

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step, "since": self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_value, self.best_step, self.since = state.get("best_value"), state.get("best_step"), state.get("since", 0)

    def _values(self, trainer: "Trainer") -> dict[str, float]:
        """Finite values under their logged names, measured by the main rank and the same on all."""
        objective = trainer.plain()
        values = trainer.processes.on_main(lambda: measure(self.evaluators, objective.to(trainer.device)))
        return {PREFIX + name: value for name, value in values.items()}

    def _judge(self, trainer: "Trainer", values: dict[str, float]) -> bool:
        """Whether this is the best evaluation so far; then its checkpoint is kept."""
        if self.config.best is None:
            return False
        value, higher = values.get(self.config.best), self.higher_is_better[self.config.best]
        better = value is not None and (self.best_value is None or (value > self.best_value if higher else value < self.best_value))
        self.since = 0 if better else self.since + 1
        if better:
            self.best_value, self.best_step = value, trainer.step
            trainer.best_step = trainer.step
        return better

    def _best_in_words(self) -> str:
        return "none was finite" if self.best_step is None else f"{self.config.best} {self.best_value:.4g} at step {self.best_step:,}"
