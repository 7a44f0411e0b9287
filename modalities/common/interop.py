"""What the layouts of other libraries have in common: sizes told by shapes, and tensors that are split or joined."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modalities import registry
from modalities.common.loading import match, skeleton
from modalities.common.stored import Description
from trainer.config import from_dict

State = dict[str, Tensor]
Fields = dict[str, Any]


def converted(state: State, described: Description, where: str) -> tuple[str, Fields, Fields, State]:
    """(system, config fields, objective fields, state in our names) of tensors in the layout that `described` says.

    Raises CheckpointError that lists missing, unknown and mis-shaped tensors in the file's own names.
    """
    cls = registry.system_class(described.system)
    model = skeleton(cls, from_dict(cls.config_class, described.fields, where), len(state), where)
    stored = match(model, state, described.names, f"{where} does not fit a {described.system} in the {described.layout} layout.")
    whole = {ours: join([state[n] for n in names]) for ours, names in stored.items()}
    return described.system, described.fields, described.objective, whole


def stack_fields(state: Mapping[str, Tensor], norm: str, bias: str, prefix: str) -> Fields:
    """Width, depth and MLP ratio of a stack of blocks; `norm` and `bias` are the first block's first norm weight and the bias of its MLP's first layer.

    From vectors: a matrix that was transposed would give other sizes, and everything but itself would seem wrong.
    """
    width, hidden = state[norm].shape[0], state[bias].shape[0]
    start = norm.partition("0.")[0]
    numbers = {name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)}
    depth = next(n for n in itertools.count(1) if str(n) not in numbers)
    return {f"{prefix}embed_dim": width, f"{prefix}depth": depth, f"{prefix}mlp_ratio": ratio(hidden, width)}


def ratio(hidden: int, width: int) -> float:
    """The mlp_ratio for which int(width * ratio) is exactly `hidden`, whatever the rounding."""
    found = hidden / width
    return found if int(width * found) == hidden else math.nextafter(found, math.inf)


def join(parts: list[Tensor]) -> Tensor:
    """One tensor from query, key and value; a single one stays the same memory."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)
