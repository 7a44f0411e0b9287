"""Recomputes golden files of Time-MoE."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.interop import converted
from modalities.time_series.interop import time_moe as interop
from modalities.time_series.interop.naming import in_layout
from modalities.time_series.models.time_moe import TimeMoE, TimeMoEConfig
from modalities.time_series.objectives.time_moe import TimeMoELossConfig, balance_of
from trainer.config import from_dict

DEFAULTS = {"num_experts_per_tok": 2, "num_experts": 1, "use_dense": False, "rms_norm_eps": 1e-6, "rope_theta": 10000, "num_attention_heads": 32}
"""What the official config takes when the file does not say it."""


def _time_moe(golden: Golden) -> dict[str, Tensor]:
    where, config = str(golden.path), {**DEFAULTS, **golden.config}
    described = interop.describe(golden.state, config, golden.layout, where)
    _, fields, _, state = converted(golden.state, described, where)
    model = TimeMoE.from_state(from_dict(TimeMoEConfig, fields, where), state, where).requires_grad_(True)
    values = _flat(golden.input("input_ids"))
    real = golden.inputs["attention_mask"].bool() if "attention_mask" in golden.inputs else None
    decoded = model.decode(values, real)
    computed = {
        "output.last_hidden_state": decoded.hidden,
        "output.logits_first_horizon": model.heads[0](decoded.hidden),
        **{f"output.pred_h{horizon}": head(decoded.hidden) for horizon, head in zip(model.config.horizons, model.heads)},
        **{f"output.hidden_after_layer{i + 1}": x for i, x in enumerate(decoded.layers)},
        **{f"output.router_logits_{i}": said for i, said in enumerate(decoded.routes)},
    }
    balance = balance_of(decoded, model.config.chosen, real)
    if balance is not None:
        computed["output.aux_loss"] = balance
    if "new_tokens" in golden.inputs:
        with torch.no_grad():
            computed["output.generated"] = model.roll_out(values, int(golden.input("new_tokens")), real)
    gradients: dict[str, Tensor] = {}
    if "labels" in golden.inputs:
        counts = _flat(golden.inputs["loss_masks"]) if "loss_masks" in golden.inputs else None
        factor = config.get("router_aux_loss_factor", 0.02) if config.get("apply_aux_loss", True) else 0.0
        loss = TimeMoELossConfig(balance=factor).build(model).of_sequence(values, _flat(golden.input("labels")), counts, real).loss
        computed["output.loss"] = loss
        gradients = in_layout(gradients_of(loss, model), described.names)
    return pick(computed, golden.expected) | golden.gradients(gradients)


def _flat(x: Tensor) -> Tensor:
    """(B, L) or (B, L, 1) -> (B, L)."""
    return x.flatten(1)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/time_moe": _time_moe}
