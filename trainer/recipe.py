"""A recipe: everything that decides a run, in one dataclass tree."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from trainer.config import dump_yaml, from_dict, leaves, read_yaml, replace, to_dict
from trainer.errors import ConfigError
from trainer.files import write_text
from trainer.optim import OptimConfig
from trainer.schedule import ScheduleConfig

R = TypeVar("R", bound="Recipe")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and how safely to train; the same fields for every modality."""

    batch_size: int = 256
    """Samples per optimizer step, over all devices."""
    steps: int | None = None
    """Length of the run in optimizer steps. Give either steps or epochs."""
    epochs: float | None = None
    """Length of the run in passes over the data. Give either steps or epochs."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data, of augmentation and of masks."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward pass: fp32, or bf16 by autocast (weights stay in fp32)."""
    workers: int | None = None
    """Processes that read data. Null: none for sets in memory, else one less than the cores, at most 4."""
    log_every: int = 10
    """Steps between reads of the metrics. They stay on the device in between, since a read waits for it."""
    save_every: int | None = None
    """Steps between checkpoints. Null: a tenth of the run. One more is written at the end and on Ctrl-C."""
    keep_last: int = 2
    """How many checkpoints to keep."""
    pictures: int = 4
    """How many times during the run to draw pictures (spread evenly, the last at the end). 0: none."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer, learning rate, decay, clipping."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over time."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("steps", "epochs", "save_every"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"train.{name} must be above 0, found {getattr(self, name)}.")
        if self.workers is not None and self.workers < 0 or self.pictures < 0:
            raise ConfigError("train.workers and train.pictures may not be negative.")

    def total_steps(self, samples: int) -> int:
        """Optimizer steps of the whole run on a source of `samples` samples."""
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(
                f"Give either train.steps or train.epochs (and set the other to null), found steps={self.steps}, epochs={self.epochs}."
            )
        return self.steps if self.steps is not None else max(1, math.ceil(self.epochs * samples / self.batch_size))


@dataclass(frozen=True)
class Recipe:
    """Base of every recipe. A modality's recipe adds `model`, `objective` and `data`, with concrete types.

    Each of these configs builds its component: `recipe.model.build()`, `recipe.data.build(...)`,
    `recipe.objective.build(model)`.
    """

    recipe: Annotated[str, tyro.conf.Suppress] = ""
    """The registered name it was made from, as in vision/mae-base."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Length, optimizer, schedule, checkpoints."""

    def save(self, path: Path) -> None:
        """Write the recipe as YAML."""
        write_text(path, dump_yaml(to_dict(self)))


def read_recipe(path: Path, base: R) -> R:
    """A recipe from a YAML file, checked against the type of `base`; fields that are absent keep base's values."""
    return from_dict(type(base), _merge(to_dict(base), read_yaml(path)), str(path))


def settle(recipe: R, base: R) -> R:
    """`recipe` where a field that was changed from `base`'s replaces the one that says the same in another way.

    A new number of steps replaces `base`'s epochs, and the other way round; a new `base_lr` replaces `base`'s `lr`.
    """
    now, before = leaves(recipe), leaves(base)
    changed = {k for k in now if now[k] != before.get(k) and now[k] is not None}
    replaced = {"train.steps": "train.epochs", "train.epochs": "train.steps", "train.optim.base_lr": "train.optim.lr"}
    gone = {old: None for new, old in replaced.items() if new in changed and old not in changed and now[old] is not None}
    return replace(recipe, gone)


def difference(old: Any, new: Any) -> list[str]:
    """Fields in which two recipes differ, one line each."""
    before, after = leaves(old), leaves(new)
    return [f"{k}: {before.get(k)} -> {after.get(k)}" for k in {**before, **after} if before.get(k) != after.get(k)]


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged
