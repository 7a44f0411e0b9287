"""Recomputes golden files of Chronos-Bolt."""

from collections.abc import Callable

from torch import Tensor

from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.interop import converted
from modalities.time_series.interop import chronos_bolt as interop
from modalities.time_series.interop.naming import in_layout
from modalities.time_series.models.chronos_bolt import ChronosBolt, ChronosBoltConfig, unscaled
from modalities.time_series.objectives.chronos import ChronosBoltLossConfig
from trainer.config import from_dict

DEFAULTS = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "dropout_rate": 0.1, "initializer_factor": 1.0, "layer_norm_epsilon": 1e-6}
"""What T5's config takes when the file does not say it."""


def _chronos_bolt(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    state = {name: tensor for name, tensor in golden.state.items() if name not in interop.TIED}
    config = {**DEFAULTS, "num_decoder_layers": golden.config.get("num_layers", DEFAULTS["num_layers"]), **golden.config}
    described = interop.describe(state, config, golden.layout, where)
    _, fields, _, state = converted(state, described, where)
    model = ChronosBolt.from_state(from_dict(ChronosBoltConfig, fields, where), state, where).requires_grad_(True)
    batch = _batch(golden)
    rows = batch["series"][:, 0], batch["observed"][:, 0]
    encoded = model.encode(*rows)
    computed = {
        "output.input_embeds": encoded.embedded,
        "output.encoder_hidden": encoded.hidden,
        "output.attention_mask": encoded.seen.float(),
        "output.loc": encoded.scaling[0],
        "output.scale": encoded.scaling[1],
        "output.quantile_preds": unscaled(model.head(model.decode(encoded)), encoded.scaling),
    }
    if "prediction_length" in golden.inputs:
        computed["output.forecast"] = model.forecast(batch, int(golden.input("prediction_length"))).quantiles[:, :, 0]
    gradients: dict[str, Tensor] = {}
    if "target" in batch:
        computed["output.loss"] = loss = ChronosBoltLossConfig().build(model)(batch).loss
        gradients = in_layout(gradients_of(loss, model), described.names)
    return pick(computed, golden.expected) | golden.gradients(gradients)


def _batch(golden: Golden) -> dict[str, Tensor]:
    """Context and target as a batch of one channel."""
    batch: dict[str, Tensor] = {}
    for theirs, ours in (("context", "series"), ("target", "target")):
        if theirs in golden.inputs:
            values = golden.input(theirs)[:, None]
            missing = golden.inputs[f"{theirs}_nan"][:, None].bool() if f"{theirs}_nan" in golden.inputs else values.isnan()
            batch |= {ours: values.masked_fill(missing, 0.0), "observed" if ours == "series" else "target_observed": ~missing}
    return batch


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/chronos_bolt": _chronos_bolt}
