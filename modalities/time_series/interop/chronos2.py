"""Chronos-2 in the layout of chronos-forecasting (amazon/chronos-2*) <-> ours."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, State, require_telling
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.interop.chronos import TIED, digits, feed_forward, forecasting_fields, mapping_of, patch_block_sizes, sizes_of_config
from modalities.time_series.interop.naming import in_layout, renamed
from modalities.time_series.models.chronos2 import Chronos2, Chronos2Config
from trainer.errors import CheckpointError

_FORECASTING = {
    "context_length": "context_length", "input_patch_size": "patch_size", "input_patch_stride": "patch_stride", "quantiles": "quantiles",
    "use_arcsinh": "use_arcsinh", "max_output_patches": "max_output_patches", "time_encoding_scale": "time_scale",
}  # fmt: skip
"""Entries of chronos_config -> our fields."""
_IMPLIED = {"output_patch_size": None, "use_reg_token": True}
"""Entries that the official code does not let be otherwise: patches of one size, and a REG token."""
_THEIRS = r"encoder.block.\1.layer"
_ATTENTIONS = (("over_time", 0), ("over_group", 1))
_TABLE = {
    "special_tokens": ("shared.weight",),
    r"(in|out)put_patch\.(hidden|output|residual)\.(weight|bias)": (r"\1put_patch_embedding.\2_layer.\3",),
    r"norm\.weight": ("encoder.final_layer_norm.weight",),
    **{rf"blocks\.(\d+)\.norm{n + 1}\.weight": (rf"{_THEIRS}.{n}.layer_norm.weight",) for n in range(3)},
    **{rf"blocks\.(\d+)\.{ours}\.qkv\.weight": tuple(rf"{_THEIRS}.{n}.self_attention.{x}.weight" for x in "qkv") for ours, n in _ATTENTIONS},
    **{rf"blocks\.(\d+)\.{ours}\.out\.weight": (rf"{_THEIRS}.{n}.self_attention.o.weight",) for ours, n in _ATTENTIONS},
    **{rf"blocks\.(\d+)\.mlp\.{ours}\.weight": (rf"{_THEIRS}.2.mlp.{theirs}.weight",) for ours, theirs in (("inner", "wi"), ("outer", "wo"))},
}


def names_in(name: str) -> tuple[str, ...]:
    """Official names of one of our tensors."""
    return renamed(name, _TABLE)


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" for a Chronos-2 of chronos-forecasting, else None."""
    keys = set(keys)
    marks = {"input_patch_embedding.hidden_layer.weight", "output_patch_embedding.hidden_layer.weight", "encoder.final_layer_norm.weight", "shared.weight"}
    said = config is None or (isinstance(config, dict) and "chronos_config" in config)
    return "official" if said and len(marks & keys) >= 3 and not any(key.startswith("decoder.") for key in keys) else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from its config.json and, where that is silent, from the shapes of its tensors. Raises CheckpointError."""
    config = mapping_of(config, "config.json", where)
    if "feed_forward_proj" in config and feed_forward(config)[0]:
        raise CheckpointError(f"{where} has feed_forward_proj={config['feed_forward_proj']!r}; the official Chronos-2 has no gate.")
    first = "encoder.block.0.layer.0.self_attention.q.weight"
    telling = {"shared.weight": 2, "encoder.final_layer_norm.weight": 1, "input_patch_embedding.hidden_layer.bias": 1, first: 2}
    require_telling({n: t for n, t in meta.items() if n not in TIED}, telling, _names(), "official", where)
    fields: Fields = {**patch_block_sizes(meta), "depth": digits(meta, "encoder.block.")} | sizes_of_config(config, {"rope_theta": "rope_theta"})
    if "head_dim" in fields or "num_heads" in fields:  # the one tells the other
        inner = meta[first].shape[0]
        fields.setdefault("num_heads", max(1, inner // max(1, fields.get("head_dim", 1))))
        fields.setdefault("head_dim", max(1, inner // max(1, fields["num_heads"])))
    said = forecasting_fields(config, {**_FORECASTING, **dict.fromkeys(_IMPLIED, "")}, meta, where)
    chronos = config["chronos_config"]
    if not chronos.get("use_reg_token") or chronos.get("output_patch_size", chronos["input_patch_size"]) != chronos["input_patch_size"]:
        raise CheckpointError(f"{where}: chronos_config must have use_reg_token and an output_patch_size that is input_patch_size, without which the official code does not run.")
    fields |= {"use_arcsinh": False, "max_output_patches": 1} | {ours: value for ours, value in said.items() if ours in _FORECASTING.values() and value is not None}
    ignored = {name: why for name, why in TIED.items() if name in meta}
    return Description("official", Chronos2.system, fields, names_in, ignored=ignored)


def to_official(model: Model) -> State:
    """The state dict of the official class."""
    return in_layout(model.state_dict(), names_in)


def to_official_config(model: Model) -> Fields:
    """config.json of the official class."""
    c = model.config
    chronos = {theirs: list(value) if isinstance(value := getattr(c, ours), tuple) else value for theirs, ours in _FORECASTING.items()}
    return {
        "architectures": ["Chronos2Model"], "model_type": "t5", "is_encoder_decoder": False, "pad_token_id": 0, "reg_token_id": 1, "vocab_size": 2,
        "d_model": c.embed_dim, "d_kv": c.head_dim, "d_ff": c.mlp_dim, "num_layers": c.depth, "num_heads": c.num_heads, "dropout_rate": c.dropout,
        "layer_norm_epsilon": c.norm_eps, "initializer_factor": c.init_factor, "feed_forward_proj": c.activation, "rope_theta": c.rope_theta,
        "chronos_pipeline_class": "Chronos2Pipeline",
        "chronos_config": chronos | {"output_patch_size": c.patch_size, "use_reg_token": True, "time_encoding_scale": c.time_scale or c.context_length},
    }  # fmt: skip


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    size = dict(patch_size=1, embed_dim=4, depth=1, num_heads=1, head_dim=2, mlp_dim=4)
    return {re.sub(r"\d+", "0", theirs) for name in skeleton(Chronos2, Chronos2Config(**size), 0, "official").state_dict() for theirs in names_in(name)}
