"""Recomputes what the golden files of training methods hold (`python -m tools.check_golden`).

Everything comes from the file: its config says what the official functions were called with, the names of its
outputs say what must be recomputed. A setting that we do not have is an error, never passed over.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainer.averaging import greedy_soup, interpolate, moving_average_, running_average, squared_distance, uniform_soup
from trainer.distillation import soft_cross_entropy
from trainer.errors import CheckpointError, UnknownNameError, did_you_mean
from trainer.schedule import ScheduleConfig

TOLERANCE = 1e-6
"""Relative to the largest magnitude of a tensor, however small that is: learning rates are far below 1."""

COOLDOWNS = {"cosine_cooldown_infinite": "cosine", "inverse_sqrt_infinite": "inverse_sqrt", "constant_infinite": "linear"}
"""The published names of the cooldowns; "constant" is a straight line."""


GoldenFile = Any
"""A golden file as read by the floor above: `path`, `model`, `config`, `state`, `inputs`, and `expected` by its full names."""


def run(golden: GoldenFile) -> dict[str, Tensor]:
    """The outputs of a file, recomputed, under the file's names."""
    if golden.model not in _RUNNERS:
        raise UnknownNameError(f"{golden.path}: no method {golden.model!r} is known here.{did_you_mean(golden.model, _RUNNERS)}")
    try:
        computed = _RUNNERS[golden.model](golden)
    except KeyError as error:
        raise CheckpointError(f"{golden.path} lacks {error}, which {golden.model} needs.") from error
    return {name: tensor for name, tensor in computed.items() if name in golden.expected}


def _schedules(golden: GoldenFile) -> dict[str, Tensor]:
    computed = {}
    for name, stored in golden.expected.items():
        kind, *rest = name.removeprefix("output.").split(".")
        made = _infinite(golden, *rest) if kind == "infinite" and len(rest) == 2 else _LIBRARIES[kind](golden) if kind in _LIBRARIES else None
        if made is not None:
            config, steps, peak, samples = made
            computed[name] = torch.tensor([config.lr(step, steps, peak, samples) for step in range(stored.numel())], dtype=torch.float64)
    return computed


Made = tuple[ScheduleConfig, int | None, float, float]
"""Schedule, steps of the run, peak learning rate, samples per step."""


def _infinite(golden: GoldenFile, style: str, task: str) -> Made | None:
    config = golden.config
    if style not in COOLDOWNS or not task.removeprefix("task").isdigit():
        return None
    schedule = ScheduleConfig(
        "infinite", warmup=config["warmup_ratio"], cooldown_end=config["cooldown_ratio"], constant_end=config["constant_ratio"],
        cooldown_style=COOLDOWNS[style], constant_lr=config["const"], floor=config["minr"], task=int(task.removeprefix("task")),
    )  # fmt: skip
    return schedule, config["iters"] * config["epochs"], config["lr"], 1


def _wsd(golden: GoldenFile) -> Made:
    options = _options(golden, "wsd", num_training_steps=None, num_stable_steps=None, min_lr_ratio=0.0, warmup_type="linear", decay_type="cosine", lr=1.0)
    warm, decay, stable = options["num_warmup_steps"], options["num_decay_steps"], options["num_stable_steps"]
    steps = options["num_training_steps"] if stable is None else warm + stable + decay
    schedule = ScheduleConfig(
        "wsd", warmup_steps=warm, decay_steps=decay, floor=options["min_lr_ratio"], warmup_style=options["warmup_type"], decay_style=options["decay_type"]
    )
    return schedule, steps, options["lr"], 1


def _timm_wsd(golden: GoldenFile) -> Made:
    options = _options(golden, "timm", lr_min=0.0, warmup_t=0, warmup_lr_init=0.0, decay_fn="1-sqrt", lr=0.01)  # the files do not say the lr
    peak, warm = options["lr"], options["warmup_t"]
    schedule = ScheduleConfig(
        "wsd", warmup_steps=warm, decay_steps=options["decay_t"], floor=options["lr_min"] / peak, warmup_start=options["warmup_lr_init"] / peak,
        decay_style=options["decay_fn"],
    )  # fmt: skip
    return schedule, warm + options["t_initial"], peak, 1  # timm counts the warm-up apart


def _cosine(golden: GoldenFile) -> Made:
    options = _options(golden, "cos", min_lr_rate=0.0, lr=1.0)
    return ScheduleConfig(warmup_steps=options["num_warmup_steps"], floor=options["min_lr_rate"]), options["num_training_steps"], options["lr"], 1


def _inverse_sqrt(golden: GoldenFile) -> Made:
    options = _options(golden, "invsqrt", timescale=None, lr=1.0)
    return ScheduleConfig("inverse_sqrt", warmup_steps=options["num_warmup_steps"], timescale=options["timescale"]), None, options["lr"], 1


def _power(golden: GoldenFile) -> Made:
    options = _options(golden, "power", n=None)  # n is the number of values
    return ScheduleConfig("power", warmup_steps=options["warm"], power_a=options["a"], power_b=options["b"]), None, options["lr"], options["c"]


_REQUIRED = {
    "wsd": ("num_warmup_steps", "num_decay_steps"), "timm": ("t_initial", "decay_t"), "cos": ("num_warmup_steps", "num_training_steps"),
    "invsqrt": ("num_warmup_steps",), "power": ("lr", "a", "b", "c", "warm"),
}  # fmt: skip


def _options(golden: GoldenFile, part: str, **defaults: Any) -> dict[str, Any]:
    """A part of the config with the defaults of the official function; every setting in it must be one that we have."""
    given = golden.config[part]
    unknown = sorted(given.keys() - defaults.keys() - set(_REQUIRED[part]))
    if unknown:
        raise CheckpointError(f"{golden.path}: {part} was made with {', '.join(unknown)}, which our schedules do not have.")
    return {**defaults, **{name: given[name] for name in _REQUIRED[part]}, **given}


_LIBRARIES: dict[str, Callable[[GoldenFile], Made]] = {
    "wsd": _wsd, "timm_wsd": _timm_wsd, "cosine_min_lr": _cosine, "inverse_sqrt": _inverse_sqrt, "power": _power,
}  # fmt: skip


def _soups(golden: GoldenFile) -> dict[str, Tensor]:
    """Linear classifiers `mI.weight`, `mI.bias` and a held-out set; a score is the share of right answers."""
    models: dict[int, dict[str, Tensor]] = {}
    for name, tensor in golden.state.items():
        model, _, rest = name.partition(".")
        models.setdefault(int(model.removeprefix("m")), {})[rest] = tensor
    x, y = golden.inputs["x"], golden.inputs["y"]

    def accuracy(state: dict[str, Tensor]) -> float:
        return float((x @ state["weight"].T + state["bias"]).argmax(dim=1).eq(y).float().mean())

    states = [models[i] for i in sorted(models)]
    soup = greedy_soup(states, accuracy)
    return {
        "output.acc": torch.tensor(soup.scores),
        "output.order": torch.tensor(soup.order),
        "output.ingredients": torch.tensor(soup.ingredients),
        "output.greedy_acc": torch.tensor([soup.score]),
        **{f"output.uniform.{name}": tensor for name, tensor in uniform_soup(states).items()},
        **{f"output.greedy.{name}": tensor for name, tensor in soup.state.items()},
    }


def _zscl(golden: GoldenFile) -> dict[str, Tensor]:
    """Distillation, weight ensemble, its WiSE variant (pulled to the anchor after each merge), live moving average, distance."""
    config, teacher, student = golden.config, golden.inputs["teacher"], golden.inputs["student"]
    weights = {int(name.removeprefix("w.")): tensor for name, tensor in golden.inputs.items() if name.startswith("w.")}
    start, anchor = {"w": golden.state["w"]}, {"w": golden.state["anchor"]}
    computed = {
        "output.distill": soft_cross_entropy(teacher, student, config["T"]),
        "output.distill_t": soft_cross_entropy(teacher.T, student.T, config["T"]),
        "output.l2": squared_distance({"w": weights[0]}, start),
    }
    average = wise = start
    for index in sorted(weights):
        new = {"w": weights[index]}
        average = running_average(average, new, index + 1)
        wise = interpolate(anchor, running_average(wise, new, index + 1), config["alpha"])
        computed |= {f"output.we.{index}": average["w"], f"output.wise.{index}": wise["w"]}
    live = {"w": weights[0].clone()}
    moving_average_(live, start, config["decay"])
    return computed | {"output.ema": live["w"]}


_RUNNERS = {"methods/schedules": _schedules, "methods/soups": _soups, "methods/zscl": _zscl}
