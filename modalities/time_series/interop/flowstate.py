"""FlowState in the layout of granite-tsfm (ibm-granite/granite-timeseries-flowstate-r1, ibm-research/flowstate) <-> ours."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, State, require_telling
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.interop.chronos import digits, mapping_of
from modalities.time_series.interop.naming import in_layout, renamed
from modalities.time_series.models.flowstate import FlowState, FlowStateConfig

_READ = {
    "context_length": "context_length", "embedding_feature_dim": "embed_dim", "encoder_num_layers": "depth", "encoder_state_dim": "state_dim",
    "encoder_num_hippo_blocks": "hippo_blocks", "mlp_type": "mlp", "out_gating": "out_gating", "with_missing": "with_missing",
    "decoder_patch_len": "patch_length", "decoder_dim": "basis_dim", "decoder_type": "basis", "quantiles": "quantiles", "scale_factor": "speed",
    "prediction_type": "point",
}  # fmt: skip
"""Entries of config.json -> our fields. Other entries are transformers' own, or say how an input is laid out."""
_LAYER, _THEIRS = r"layers\.(\d+)\.", r"model.encoder.layers.\1."
_STATES = {
    "log_decay": "log_Lambda_real", "frequency": "Lambda_imag", "log_step": "log_Delta", "in_real": "B_tilde_r", "in_imag": "B_tilde_i",
    "out_real": "C_tilde_r", "out_imag": "C_tilde_i", "direct": "D",
}  # fmt: skip
_TABLE = {
    r"embed_layer\.(weight|bias)": (r"model.embed.embed.\1",),
    r"coefficients\.(weight|bias)": (r"model.decoder.lin.\1",),
    **{rf"{_LAYER}ssm\.{ours}": (f"{_THEIRS}ssm.{theirs}",) for ours, theirs in _STATES.items()},
    rf"{_LAYER}ssm\.gate\.(weight|bias)": (rf"{_THEIRS}ssm.output_gate.\2",),
    rf"{_LAYER}(out|norm)\.(weight|bias)": (rf"{_THEIRS}\2.\3",),
    rf"{_LAYER}mlp\.norm\.weight": (f"{_THEIRS}mlp.rms_weight",),
    **{rf"{_LAYER}mlp\.{ours}\.(weight|bias)": (rf"{_THEIRS}mlp.{theirs}.\2",) for ours, theirs in (("gate", "w1"), ("inner", "w2"), ("outer", "w3"))},
}


def names_in(name: str) -> tuple[str, ...]:
    """Official names of one of our tensors."""
    return renamed(name, _TABLE)


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" for a FlowState of granite-tsfm, else None."""
    said = config.get("model_type") if isinstance(config, dict) else None
    marks = {"model.embed.embed.weight", "model.decoder.lin.weight", "model.encoder.layers.0.ssm.log_Delta", "model.encoder.layers.0.ssm.D"}
    return "official" if said in (None, "flowstate") and len(marks & set(keys)) >= 3 else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from its config.json and, where that is silent, from the shapes of its tensors. Raises CheckpointError."""
    config = mapping_of(config, "config.json", where)
    first = "model.encoder.layers.0.ssm."
    telling = {f"{first}D": 1, f"{first}log_Delta": 1, "model.embed.embed.weight": 2, "model.decoder.lin.bias": 1}
    require_telling(meta, telling, _names(), "official", where)
    fields: Fields = {
        "embed_dim": meta[f"{first}D"].shape[0], "state_dim": meta[f"{first}log_Delta"].shape[0], "depth": digits(meta, "model.encoder.layers."),
        "with_missing": meta["model.embed.embed.weight"].shape[1] == 2, "out_gating": any(".ssm.output_gate." in name for name in meta),
        "mlp": "transformer" if any(".mlp." in name for name in meta) else "gated",
    }  # fmt: skip
    fields |= {ours: config[theirs] for theirs, ours in _READ.items() if config.get(theirs) is not None}
    if fields.get("point") == "quantile":  # the older configs' word for what is the mean now
        fields["point"] = "mean"
    if "quantiles" not in config or "decoder_dim" not in config:  # the one tells the other
        levels = config.get("quantiles", FlowStateConfig.quantiles)
        fields.setdefault("basis_dim", max(1, meta["model.decoder.lin.bias"].shape[0] // max(1, len(levels))))
    return Description("official", FlowState.system, fields, names_in)


def to_official(model: Model) -> State:
    """The state dict of FlowStateForPrediction."""
    return in_layout(model.state_dict(), names_in)


def to_official_config(model: Model) -> Fields:
    """config.json of FlowStateForPrediction."""
    c = model.config
    fields = {theirs: list(value) if isinstance(value := getattr(c, ours), tuple) else value for theirs, ours in _READ.items()}
    return {"architectures": ["FlowStateForPrediction"], "model_type": "flowstate", "batch_first": True, "prediction_length": -1, **fields}


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    size = dict(embed_dim=4, depth=1, state_dim=2, hippo_blocks=1, basis_dim=1, out_gating=True)
    ours = {name for mlp in ("gated", "transformer") for name in skeleton(FlowState, FlowStateConfig(**size, mlp=mlp), 0, "official").state_dict()}
    return {re.sub(r"\d+", "0", theirs) for name in ours for theirs in names_in(name)}
