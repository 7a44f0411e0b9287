"""Chronos-Bolt in the layout of chronos-forecasting (amazon/chronos-bolt-*) <-> ours: a T5 in transformers' names with two patch blocks."""

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
from modalities.time_series.models.chronos_bolt import ChronosBolt, ChronosBoltConfig

ARCHITECTURE = "ChronosBoltModelForForecasting"
_OWN = {"decoder_start_token_id": "start_token", "relative_attention_num_buckets": "num_buckets", "relative_attention_max_distance": "max_distance"}
"""Entries of T5's config that Chronos-2 has not -> our fields."""
_FORECASTING = {
    "context_length": "context_length", "prediction_length": "prediction_length", "input_patch_size": "patch_size", "input_patch_stride": "patch_stride",
    "quantiles": "quantiles", "use_reg_token": "use_reg_token",
}  # fmt: skip
"""Entries of chronos_config -> our fields."""
_ATTENTION = tuple(rf"encoder.block.\1.layer.0.SelfAttention.{x}.weight" for x in "qkv")
_SEPARATE = {
    f"{kind}_attention": (layer, name) for kind, layer, name in (("self", 0, "SelfAttention"), ("cross", 1, "EncDecAttention"))
}  # our attention -> its place in a block of the decoder
_TABLE = {
    "special_tokens": ("shared.weight",),
    r"(in|out)put_patch\.(hidden|output|residual)\.(weight|bias)": (r"\1put_patch_embedding.\2_layer.\3",),
    r"(en|de)coder\.norm\.weight": (r"\1coder.final_layer_norm.weight",),
    r"(en|de)coder\.position_bias\.weight": (r"\1coder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
    r"encoder\.blocks\.(\d+)\.attention\.qkv\.weight": _ATTENTION,
    r"encoder\.blocks\.(\d+)\.attention\.out\.weight": (r"encoder.block.\1.layer.0.SelfAttention.o.weight",),
    **{
        rf"decoder\.blocks\.(\d+)\.{ours}\.{full}\.weight": (rf"decoder.block.\1.layer.{layer}.{name}.{short}.weight",)
        for ours, (layer, name) in _SEPARATE.items()
        for full, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
    },
    **{
        rf"({stack})\.blocks\.(\d+)\.norm{n + 1}\.weight": (rf"\1.block.\2.layer.{n}.layer_norm.weight",)
        for stack, layers in (("encoder", 2), ("decoder", 3))
        for n in range(layers)
    },
}  # fmt: skip


def names_in(name: str, gated: bool) -> tuple[str, ...]:
    """Official names of one of our tensors."""
    inner = {"inner": "wi_1", "gate": "wi_0", "outer": "wo"} if gated else {"inner": "wi", "outer": "wo"}
    mlps = {
        rf"{stack}\.blocks\.(\d+)\.mlp\.{ours}\.weight": (rf"{stack}.block.\1.layer.{layer}.DenseReluDense.{theirs}.weight",)
        for stack, layer in (("encoder", 1), ("decoder", 2))
        for ours, theirs in inner.items()
    }
    return renamed(name, {**_TABLE, **mlps})


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" for a Chronos-Bolt of chronos-forecasting, else None."""
    keys = set(keys)
    marks = {"input_patch_embedding.hidden_layer.weight", "output_patch_embedding.hidden_layer.weight", "decoder.final_layer_norm.weight", "shared.weight"}
    said = isinstance(config, dict) and "chronos_config" in config
    return "official" if len(marks & keys) >= 3 and (said or config is None) and any(key.startswith("decoder.block.") for key in keys) else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from its config.json and, where that is silent, from the shapes of its tensors. Raises CheckpointError."""
    config = mapping_of(config, "config.json", where)
    telling = {
        "shared.weight": 2, "encoder.final_layer_norm.weight": 1, "input_patch_embedding.hidden_layer.bias": 1, "output_patch_embedding.output_layer.bias": 1,
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": 2, "encoder.block.0.layer.0.SelfAttention.q.weight": 2,
    }  # fmt: skip
    gated = feed_forward(config)[0] if "feed_forward_proj" in config else any(".wi_0." in name for name in meta)
    require_telling({n: t for n, t in meta.items() if n not in TIED}, telling, _names(gated), "official", where)
    buckets, heads = meta["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape
    fields: Fields = {**patch_block_sizes(meta), "num_buckets": buckets, "num_heads": heads, "gated": gated}
    fields |= {"depth": digits(meta, "encoder.block."), "decoder_depth": digits(meta, "decoder.block.")}
    fields |= sizes_of_config(config, {**_OWN, "num_decoder_layers": "decoder_depth"})
    fields.setdefault("head_dim", max(1, meta["encoder.block.0.layer.0.SelfAttention.q.weight"].shape[0] // max(1, fields["num_heads"])))
    fields |= forecasting_fields(config, _FORECASTING, meta, where)
    ignored = {name: why for name, why in TIED.items() if name in meta}
    return Description("official", ChronosBolt.system, fields, lambda name: names_in(name, gated), ignored=ignored)


def to_official(model: Model) -> State:
    """The state dict of the official class; what it ties to `shared` is left out, as in the released files."""
    return in_layout(model.state_dict(), lambda name: names_in(name, model.config.gated))


def to_official_config(model: Model) -> Fields:
    """config.json of the official class, which is T5's with `chronos_config`."""
    c = model.config
    activation = {(True, "gelu_new"): "gated-gelu"}.get((c.gated, c.activation), f"gated-{c.activation}" if c.gated else c.activation)
    return {
        "architectures": [ARCHITECTURE], "model_type": "t5", "is_encoder_decoder": True, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": c.start_token,
        "vocab_size": 1 + c.use_reg_token, **({"reg_token_id": 1} if c.use_reg_token else {}),
        "d_model": c.embed_dim, "d_kv": c.head_dim, "d_ff": c.mlp_dim, "num_layers": c.depth, "num_decoder_layers": c.decoder_depth, "num_heads": c.num_heads,
        "relative_attention_num_buckets": c.num_buckets, "relative_attention_max_distance": c.max_distance, "dropout_rate": c.dropout,
        "layer_norm_epsilon": c.norm_eps, "initializer_factor": c.init_factor, "feed_forward_proj": activation, "chronos_pipeline_class": "ChronosBoltPipeline",
        "chronos_config": {theirs: list(value) if isinstance(value := getattr(c, ours), tuple) else value for theirs, ours in _FORECASTING.items()},
    }  # fmt: skip


@cache
def _names(gated: bool) -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    size = dict(patch_size=1, embed_dim=4, depth=1, decoder_depth=1, num_heads=1, head_dim=2, mlp_dim=4, prediction_length=1)
    model = skeleton(ChronosBolt, ChronosBoltConfig(**size, gated=gated), 0, "official")
    return {re.sub(r"\d+", "0", theirs) for name in model.state_dict() for theirs in names_in(name, gated)}
