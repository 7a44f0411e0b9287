"""Recomputes golden files of Chronos-2."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.interop import converted
from modalities.time_series.golden.chronos_bolt import DEFAULTS
from modalities.time_series.interop import chronos2 as interop
from modalities.time_series.interop.naming import in_layout
from modalities.time_series.models.chronos2 import Chronos2, Chronos2Config, Future
from modalities.time_series.objectives.chronos import over_patches
from trainer.config import from_dict

OWN = {"initializer_factor": 0.05}
"""What Chronos-2's config takes where T5's takes another value."""


def _chronos2(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    state = {name: tensor for name, tensor in golden.state.items() if name not in interop.TIED}
    described = interop.describe(state, {**DEFAULTS, **OWN, **golden.config}, golden.layout, where)
    _, fields, _, state = converted(state, described, where)
    model = Chronos2.from_state(from_dict(Chronos2Config, fields, where), state, where).requires_grad_(True)
    series, observed = _masked(golden, "context")
    patches = int(golden.inputs.get("num_output_patches", torch.tensor(1)))
    groups = golden.inputs.get("group_ids", torch.arange(len(series))).long()
    future = Future(*_masked(golden, "future_covariates")) if "future_covariates" in golden.inputs else None
    encoded = model.encode(series, observed, groups, patches, future)
    found = model.head(encoded.hidden, patches)
    computed = {"output.quantile_preds": model.unscaled(found, encoded.scaling), "output.loc": encoded.scaling[0], "output.scale": encoded.scaling[1]}
    gradients: dict[str, Tensor] = {}
    if "future_target" in golden.inputs:
        target, there = _masked(golden, "future_target")
        counts = there & ~encoded.known[:, : target.shape[1]]
        loss = over_patches(found, model.scaled(target, counts, encoded.scaling), counts, model.levels)
        computed["output.loss"] = loss
        gradients = in_layout(gradients_of(loss, model), described.names)
    return pick(computed, golden.expected) | golden.gradients(gradients)


def _masked(golden: Golden, name: str) -> tuple[Tensor, Tensor]:
    """An input without its gaps, and where it has none."""
    values = golden.input(name)
    missing = golden.inputs[f"{name}_nan"].bool() if f"{name}_nan" in golden.inputs else values.isnan()
    return values.masked_fill(missing, 0.0), ~missing


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/chronos2": _chronos2}
