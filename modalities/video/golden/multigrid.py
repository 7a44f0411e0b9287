"""Recomputes golden files of the multigrid schedule, which hold no weights."""

import bisect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modalities.common.golden import Golden, pick
from trainer.errors import CheckpointError
from trainer.multigrid import HALF, MultigridConfig, Phase, learning_rates, long_cycle

DEFAULTS = {
    "gamma": 0.1, "num_gpus": 8, "epoch_factor": 1.5, "short_cycle": True, "bn_base_size": 8,
    "long_cycle_factors": [[0.25, HALF], [0.5, HALF], [0.5, 1], [1, 1]], "short_cycle_factors": [0.5, HALF],
}  # fmt: skip
"""What SlowFast takes when the config does not say it."""
REQUIRED = ("batch_size", "num_frames", "crop_size", "sampling_rate", "steps", "max_epoch")
PLAIN, SYNC, SPLIT = 0, 1, 2
"""Kinds of batch norm."""


def _schedule(golden: Golden) -> dict[str, Tensor]:
    missing, unknown = [k for k in REQUIRED if k not in golden.config], golden.config.keys() - {*REQUIRED, *DEFAULTS}
    if missing or unknown:
        raise CheckpointError(f"{golden.path}: the config of a multigrid schedule lacks {missing} or has {sorted(unknown)}, which are not known.")
    options = {**DEFAULTS, **golden.config}
    config = MultigridConfig(
        "both" if options["short_cycle"] else "long", tuple((float(t), float(s)) for t, s in options["long_cycle_factors"]),
        tuple(map(float, options["short_cycle_factors"])), gamma=options["gamma"], length_factor=options["epoch_factor"],
    )  # fmt: skip
    side = options["crop_size"]
    phases = long_cycle(config, (options["num_frames"], side, side), options["steps"], options["max_epoch"])
    rates = learning_rates(phases, config.gamma)
    computed = {
        "output.schedule": torch.tensor([[p.stage, p.batch, p.size[0], p.size[1], p.end] for p in phases], dtype=torch.float32),
        "output.steps": torch.tensor([float(begin) for begin, _ in rates]),
        "output.lrs": torch.tensor([lr for _, lr in rates]),
        "output.max_epoch": torch.tensor(float(phases[-1].end)),
        "output.epoch_shapes": torch.tensor(_epochs(phases, options), dtype=torch.float32),
    }
    return pick(computed, golden.expected)


def _epochs(phases: list[Phase], options: dict[str, Any]) -> list[list[float]]:
    """[clips per step, frames, crop, temporal stride, changed?, kind of norm, splits] of each epoch.

    As in SlowFast everything changes only where the shape does, and the number of splits stays when the norm is no longer split.
    """
    frames, side, rate = options["num_frames"], options["crop_size"], options["sampling_rate"]
    clips, stride, kind, splits = options["batch_size"], rate, PLAIN, 1
    now, rows = (frames, side), []
    for epoch in range(phases[-1].end):
        phase = phases[min(bisect.bisect_right([p.end for p in phases], epoch), len(phases) - 1)]
        changed = phase.size[:2] != now
        if changed:
            now, clips = phase.size[:2], phase.batch * options["batch_size"]
            stride = rate * (frames // now[0])
            share = clips / options["num_gpus"] / options["bn_base_size"]  # of what a norm's statistics are made of
            kind = PLAIN if math.isclose(share, 1) else SPLIT if share > 1 else SYNC
            splits = int(share) if kind == SPLIT else splits
        rows.append([clips, *now, stride, float(changed), kind, splits])
    return rows


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"video/multigrid": _schedule}
