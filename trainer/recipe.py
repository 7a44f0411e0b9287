"""A recipe: everything that decides a run, in one dataclass tree."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from trainer.config import dump_yaml, from_dict, leaves, read_yaml, replace, to_dict
from trainer.errors import ConfigError
from trainer.evaluation import EvalConfig
from trainer.files import write_text
from trainer.guard import GuardConfig
from trainer.multigrid import MultigridConfig
from trainer.optim import OptimConfig
from trainer.schedule import EITHER, ScheduleConfig

R = TypeVar("R", bound="Recipe")

LENGTHS = ("steps", "samples", "epochs")
"""Fields of TrainConfig that say how long to train; one of them is given."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and how safely to train; the same fields for every modality."""

    batch_size: int = 256
    """Samples per optimizer step, over all devices."""
    steps: int | None = None
    """Length of the run in optimizer steps. Give one of steps, samples and epochs."""
    samples: int | None = None
    """Length of the run in samples seen, counted each time they are."""
    epochs: float | None = None
    """Length of the run in passes over the data."""
    seed: int = 0
    """Seed of the initial weights, of the order of the data, of augmentation and of masks."""
    accumulate: int = 1
    """Micro-batches that each process cuts its share of a batch into, to save memory. The gradient is that of the whole batch."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes share the work: a whole copy of the model each (ddp), or weights, gradients and optimizer split (fsdp: FSDP2)."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass: fp32, or 16 bits by autocast (weights stay in fp32). A CPU without bf16 units trains in fp32."""
    tf32: bool = True
    """With fp32 on NVIDIA GPUs: let matrix products round their inputs to TF32 (10-bit mantissa), several times faster."""
    compile: Literal["no", "whole", "blocks"] = "no"
    """torch.compile: the whole objective, or each repeated block (quicker to compile)."""
    recompute: bool = False
    """Keep no activations inside blocks and compute them again in the backward pass: less memory, about a third more time."""
    channels_last: bool = False
    """Lay images and volumes out with the channels innermost, which convolutions on GPUs like."""
    ema: float | None = None
    """Decay of an exponential moving average of the weights, which is then evaluated and exported (0.9999, say). Null: none."""
    ema_warmup: bool = True
    """Let the decay of the average grow with the steps up to `ema`."""
    workers: int | None = None
    """Processes that read data. Null: none for sets in memory, else one less than the cores, at most 4."""
    log_every: int = 10
    """Steps between reads of the metrics. They stay on the device in between, since a read waits for it."""
    save_every: int | None = None
    """Steps between checkpoints. Null: a tenth of the run. One more is written at the end and on Ctrl-C."""
    save_async: bool = False
    """Write checkpoints beside training (from a copy in memory) rather than waiting for the disk."""
    keep_last: int = 2
    """How many checkpoints to keep, besides the best one and those before a phase of the schedule that cannot be taken back."""
    pictures: int = 4
    """How many times during the run to draw pictures (spread evenly, the last at the end). 0: none."""
    profile: int | None = None
    """Record a trace of so many steps, after the first 3 of this start, into `profile/`. Null: none."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers to log to besides TensorBoard, by accelerate's names: wandb, mlflow, comet_ml, ..."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer, learning rate, decay, clipping."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over time."""
    multigrid: MultigridConfig = field(default_factory=MultigridConfig)
    """Inputs whose size changes in the course of the run, with batches that grow as they shrink."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What to do about NaN and loss spikes."""
    evaluate: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation inside training, best checkpoint, early stopping."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "log_every", "keep_last", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1, found {getattr(self, name)}.")
        for name in (*LENGTHS, "save_every", "profile"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ConfigError(f"train.{name} must be above 0, found {getattr(self, name)}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"train.ema is a decay above 0 and below 1 (0.9999, say), found {self.ema}.")
        if self.save_async and self.parallel == "fsdp":
            raise ConfigError("train.save_async writes from one process, and with train.parallel=fsdp each has its own part. Set one of the two back.")
        if self.workers is not None and self.workers < 0 or self.pictures < 0:
            raise ConfigError("train.workers and train.pictures may not be negative.")

    def total_steps(self, samples: int) -> int:
        """Optimizer steps of the whole run on a source of `samples` samples; the last step may go beyond samples or epochs."""
        given = {name: getattr(self, name) for name in LENGTHS if getattr(self, name) is not None}
        if len(given) != 1:
            found = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            raise ConfigError(f"Give one of train.steps, train.samples and train.epochs (the others null), found {found}.")
        if self.steps is not None:
            return self.steps
        seen = self.samples if self.samples is not None else self.epochs * samples
        return max(1, math.ceil(seen / self.batch_size))


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
    init_from: str = ""
    """Begin with the weights of a run, of one of its checkpoints, or of an exported model of the same architecture. Unlike
    --resume, everything else begins anew: steps, schedule, optimizer, random numbers."""
    init_optimizer: bool = False
    """Take the optimizer's moments from that run's checkpoint too (continual pre-training)."""

    def save(self, path: Path) -> None:
        """Write the recipe as YAML."""
        write_text(path, dump_yaml(to_dict(self)))


def read_recipe(path: Path, base: R) -> R:
    """A recipe from a YAML file, checked against the type of `base`; fields that are absent keep base's values."""
    return from_dict(type(base), _merge(to_dict(base), read_yaml(path)), str(path))


def settle(recipe: R, base: R) -> R:
    """`recipe` where a field that was changed from `base`'s replaces the one that says the same in another way.

    A new number of steps, samples or epochs replaces `base`'s other one, and so it is with the lengths of a
    schedule's phases; a new `base_lr` replaces `base`'s `lr`.
    """
    now, before = leaves(recipe), leaves(base)
    changed = {k for k in now if now[k] != before.get(k) and now[k] is not None}
    groups = [[f"train.{name}" for name in LENGTHS], *([f"train.schedule.{name}" for name in pair] for pair in EITHER)]
    replaced = [(new, old) for group in groups for new in group for old in group if new != old] + [("train.optim.base_lr", "train.optim.lr")]
    gone = {old: None for new, old in replaced if new in changed and old not in changed and now[old] is not None}
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
