"""Time-MoE in the layout of its release (Maple728/TimeMoE-*) <-> ours, which joins gates with first layers."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, State, require_telling, settle_heads
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.interop.chronos import digits, mapping_of
from modalities.time_series.interop.naming import in_layout, renamed
from modalities.time_series.models.time_moe import TimeMoE, TimeMoEConfig
from trainer.errors import CheckpointError, shorten

HEADS = {384: 12, 768: 12, 1024: 16}
"""Attention heads of the published sizes by width. Shapes do not tell them."""
_READ = {
    "hidden_size": "embed_dim", "intermediate_size": "mlp_dim", "horizon_lengths": "horizons", "num_hidden_layers": "depth", "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads", "num_experts": "experts", "num_experts_per_tok": "chosen", "max_position_embeddings": "context_length",
    "rope_theta": "rope_theta", "use_dense": "dense", "rms_norm_eps": "norm_eps", "attention_dropout": "attention_dropout", "initializer_range": "init_std",
}  # fmt: skip
"""Entries of config.json -> our fields."""
_LAYER = r"layers\.(\d+)\."
_THEIRS = r"model.layers.\1."
_TABLE = {
    r"value\.weight": ("model.embed_layer.emb_layer.weight",),
    r"gate\.weight": ("model.embed_layer.gate_layer.weight",),
    r"norm\.weight": ("model.norm.weight",),
    r"heads\.(\d+)\.weight": (r"lm_heads.\1.out_layer.weight",),
    **{
        rf"{_LAYER}{ours}\.(weight|bias)": (rf"{_THEIRS}{theirs}.\2",)
        for ours, theirs in (
            ("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm"), (r"attention\.query", "self_attn.q_proj"), (r"attention\.key", "self_attn.k_proj"),
            (r"attention\.value", "self_attn.v_proj"), (r"attention\.out", "self_attn.o_proj"), (r"mlp\.router", "ffn_layer.gate"),
            (r"mlp\.shared_gate", "ffn_layer.shared_expert_gate"), (r"mlp\.shared\.outer", "ffn_layer.shared_expert.down_proj"), (r"mlp\.outer", "ffn_layer.down_proj"),
        )
    },
    rf"{_LAYER}mlp\.experts\.(\d+)\.outer\.weight": (rf"{_THEIRS}ffn_layer.experts.\2.down_proj.weight",),
    rf"{_LAYER}mlp\.experts\.(\d+)\.inner\.weight": tuple(rf"{_THEIRS}ffn_layer.experts.\2.{part}_proj.weight" for part in ("gate", "up")),
    **{
        rf"{_LAYER}{ours}\.inner\.weight": tuple(f"{_THEIRS}{theirs}.{part}_proj.weight" for part in ("gate", "up"))
        for ours, theirs in ((r"mlp\.shared", "ffn_layer.shared_expert"), ("mlp", "ffn_layer"))
    },
}  # fmt: skip


def names_in(name: str) -> tuple[str, ...]:
    """Official names of one of our tensors."""
    return renamed(name, _TABLE)


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" for a Time-MoE of the release, else None."""
    said = config.get("model_type") if isinstance(config, dict) else None
    marks = {"model.embed_layer.emb_layer.weight", "model.embed_layer.gate_layer.weight", "lm_heads.0.out_layer.weight"}
    return "official" if said in (None, "time_moe") and len(marks & set(keys)) >= 2 else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from its config.json and, where that is silent, from the shapes of its tensors. Raises CheckpointError."""
    config = mapping_of(config, "config.json", where)
    for name, only in (("hidden_act", "silu"), ("input_size", 1)):
        if config.get(name, only) != only:
            raise CheckpointError(f"{where} has {name}={shorten(config[name])} in its config.json; this Time-MoE computes {only!r}, as all released ones.")
    dense = bool(config.get("use_dense", not any(".experts." in name for name in meta)))
    inner = "model.layers.0.ffn_layer.gate_proj.weight" if dense else "model.layers.0.ffn_layer.shared_expert.gate_proj.weight"
    depth, experts = digits(meta, "model.layers."), config.get("num_experts") or digits(meta, "model.layers.0.ffn_layer.experts.") or 1
    telling = {"model.norm.weight": 1, inner: 2, **{f"lm_heads.{n}.out_layer.weight": 2 for n in range(max(1, digits(meta, "lm_heads.")))}}
    require_telling(meta, telling, _names(), "official", where)
    fields: Fields = {
        "embed_dim": meta["model.norm.weight"].shape[0], "mlp_dim": meta[inner].shape[0], "depth": depth, "experts": experts, "dense": dense,
        "horizons": tuple(meta[name].shape[0] for name in telling if name.startswith("lm_heads.")),
    }  # fmt: skip
    fields |= {ours: config[theirs] for theirs, ours in _READ.items() if config.get(theirs) is not None}
    if isinstance(fields["horizons"], int):
        fields["horizons"] = (fields["horizons"],)
    settle_heads(fields, HEADS, {}, where)
    return Description("official", TimeMoE.system, fields, names_in)


def to_official(model: Model) -> State:
    """The state dict of the official class."""
    return in_layout(model.state_dict(), names_in)


def to_official_config(model: Model) -> Fields:
    """config.json of the official class."""
    fields = {theirs: getattr(model.config, ours) for theirs, ours in _READ.items()}
    fields |= {"horizon_lengths": list(model.config.horizons), "num_key_value_heads": model.config.kv_heads}
    return {"architectures": ["TimeMoeForPrediction"], "model_type": "time_moe", "hidden_act": "silu", "input_size": 1, **fields}


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    size = dict(horizons=(1,), embed_dim=4, mlp_dim=2, depth=1, num_heads=1, experts=1, chosen=1)
    ours = {name for dense in (False, True) for name in skeleton(TimeMoE, TimeMoEConfig(**size, dense=dense), 0, "official").state_dict()}
    return {re.sub(r"\d+", "0", theirs) for name in ours for theirs in names_in(name)}
