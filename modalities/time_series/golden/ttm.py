"""Recomputes golden files of TTM, from all input channels at once as the official class takes them."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.interop import converted
from modalities.time_series.interop import ttm as interop
from modalities.time_series.models.forecaster import LossTerms
from modalities.time_series.models.ttm import TTM, Prediction
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from trainer.config import from_dict


def _channels_first(golden: Golden, name: str) -> Tensor | None:
    """An input (B, T, C) as (B, C, T); zeros where `name_nan` marks it. None without it."""
    if name not in golden.inputs:
        return None
    values = golden.inputs[name]
    hidden = golden.inputs.get(f"{name}_nan")
    return (values if hidden is None else torch.where(hidden.bool(), 0.0, values)).transpose(1, 2)


def _ttm(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    stored = {name: tensor.long() if name.endswith("num_batches_tracked") else tensor for name, tensor in golden.state.items()}
    described = interop.describe(stored, golden.config, golden.layout, where)
    _, fields, objective, state = converted(stored, described, where)
    model = TTM.from_state(from_dict(TTMConfig, fields, where), state, where).requires_grad_(True).eval()
    c = model.config
    past, future = _channels_first(golden, "past_values"), _channels_first(golden, "future_values")
    observed = _observed(golden, "past", past)
    if "past_observed_mask" not in golden.inputs:  # the official class then takes the zeros before a short context for values
        lacking = max(0, c.context_length - past.shape[2])
        past, observed = torch.nn.functional.pad(past, (lacking, 0)), torch.nn.functional.pad(observed, (lacking, 0), value=True)
    future = None if future is None else future[..., : c.horizon]
    ahead = None if future is None or not c.exogenous else future[:, list(c.exogenous)]
    past, observed = model.read(past, observed, ahead)
    scaled, loc, scale = model.scaled(past, observed)
    frequency, static = golden.inputs.get("freq_token"), golden.inputs.get("static_categorical_values")
    states = model.states(scaled, past, ahead, None if frequency is None else frequency.long(), static)
    if not c.any_channels:
        loc, scale = loc[:, list(c.targets)], scale[:, list(c.targets)]
    said = Prediction(states.point, states.quantiles, loc, scale)
    point, quantiles = said.in_units()
    computed = {
        "prediction_outputs": point.transpose(1, 2),
        "backbone_hidden_state": states.encoded,
        "decoder_hidden_state": states.decoded,
        "loc": loc.transpose(1, 2),
        "scale": scale.transpose(1, 2),
    } | ({} if quantiles is None else {"quantile_outputs": quantiles.transpose(2, 3)})
    gradients: dict[str, Tensor] = {}
    if future is not None:
        target, counted = future, _observed(golden, "future", future)
        if not c.any_channels and future.shape[1] == c.num_input_channels:
            target, counted = future[:, list(c.targets)], counted[:, list(c.targets)]
        # the official quantile loss does not look at the mask
        terms = LossTerms(point, target, torch.ones_like(counted) if c.multi_quantile_head else counted, quantiles, model.levels)
        computed["loss"] = from_dict(ForecastingConfig, objective, where).build(model).of(terms).loss
        gradients = gradients_of(computed["loss"], model)
    return pick({f"output.{name}": tensor for name, tensor in computed.items()}, golden.expected) | golden.gradients(gradients)


def _observed(golden: Golden, which: str, values: Tensor) -> Tensor:
    """The mask of past or future as bool, (B, C, T); all observed where the file has none."""
    mask, hidden = _channels_first(golden, f"{which}_observed_mask"), golden.inputs.get(f"{which}_values_nan")
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool) if hidden is None else ~hidden.bool().transpose(1, 2)[..., : values.shape[2]]
    return mask.bool()[..., : values.shape[2]]


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/ttm": _ttm}
