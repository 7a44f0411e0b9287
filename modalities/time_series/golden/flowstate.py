"""Recomputes golden files of FlowState, whose cases each have a series, a horizon and a scale factor of their own."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.interop import converted
from modalities.time_series.interop import flowstate as interop
from modalities.time_series.interop.naming import in_layout
from modalities.time_series.models.flowstate import FlowState, FlowStateConfig, patch_steps
from trainer.config import from_dict


def _flowstate(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    described = interop.describe(golden.state, golden.config, golden.layout, where)
    _, fields, _, state = converted(golden.state, described, where)
    model = FlowState.from_state(from_dict(FlowStateConfig, fields, where), state, where).requires_grad_(True)
    computed: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for case in (name.removesuffix("past_values") for name in golden.inputs if name.endswith("past_values")):
        found = _case(golden, model, case)
        computed |= {f"output.{case}{name}": tensor for name, tensor in found.items()}
        if f"output.{case}mean_square" in golden.expected:
            gradients |= in_layout(gradients_of(found["mean_square"], model), described.names)
    return pick(computed, golden.expected) | golden.gradients(gradients)


def _case(golden: Golden, model: FlowState, case: str) -> dict[str, Tensor]:
    """Outputs of one case, time first where the official code has it so. The horizon is the official one, which may come back too short."""
    laid = (lambda x: x[..., 0]) if golden.config.get("batch_first", True) else (lambda x: x[..., 0].t())
    series = laid(golden.input(f"{case}past_values"))
    missing = laid(golden.inputs[f"{case}nan_mask"]).bool() if f"{case}nan_mask" in golden.inputs else series.isnan()
    speed = float(golden.inputs.get(f"{case}scale_factor", torch.tensor(model.config.speed)))
    patch = patch_steps(model.config.patch_length, speed)
    horizon = int(golden.inputs.get(f"{case}prediction_length", torch.tensor(-1)))
    horizon = patch if horizon < 0 else horizon
    unknown = max(0, horizon - patch)
    keep = max(1, model.longest(speed) - unknown)
    past, seen = (F.pad(x[:, -keep:], (0, unknown)) for x in (series.masked_fill(missing, 0.0), ~missing))
    layers = model.encode(model.normalised(past, seen).values, seen, speed, past.shape[1] - unknown - 1)
    quantiles = model.quantiles(series.masked_fill(missing, 0.0), ~missing, horizon, speed, official=True)
    point = model.point_of(quantiles)
    return {
        "first_layer": layers[0].transpose(0, 1),
        "backbone_hidden_state": layers[-1].transpose(0, 1),
        "quantile_outputs": quantiles[..., None],
        "prediction_outputs": point[..., None],
        "mean_square": point.square().mean(),
    }


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/flowstate": _flowstate}
