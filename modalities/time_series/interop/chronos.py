"""What the layouts of Chronos-Bolt and Chronos-2 have in common: entries of T5's config, chronos_config, and tensors that are stored twice."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields
from modalities.time_series.interop.naming import require_known
from trainer.errors import CheckpointError, shorten

TIED = {
    "encoder.embed_tokens.weight": "the same tensor as shared.weight",
    "decoder.embed_tokens.weight": "the same tensor as shared.weight",
    "lm_head.weight": "no part of the network, the official code ignores it, too",
}
"""Tensors that some files hold beside the weights -> what they are."""
_SIZES = {
    "d_model": "embed_dim", "d_kv": "head_dim", "d_ff": "mlp_dim", "num_layers": "depth", "num_heads": "num_heads", "dropout_rate": "dropout",
    "layer_norm_epsilon": "norm_eps", "initializer_factor": "init_factor",
}  # fmt: skip
"""Entries of the config -> our fields."""


def mapping_of(value: Any, what: str, where: str) -> Fields:
    """A mapping out of a file; {} for None. CheckpointError for anything else."""
    if value is not None and not isinstance(value, dict):
        raise CheckpointError(f"{where}: {what} must be a mapping, found {shorten(value)}.")
    return value or {}


def sizes_of_config(config: Fields, more: Mapping[str, str]) -> Fields:
    """Our fields as the config gives them; `more` entries beside the common ones."""
    fields = {ours: config[theirs] for theirs, ours in {**_SIZES, **more}.items() if config.get(theirs) is not None}
    return fields | ({"activation": feed_forward(config)[1]} if "feed_forward_proj" in config else {})


def feed_forward(config: Fields) -> tuple[bool, str]:
    """Whether the feed-forward layers have a gate, and their non-linearity, from T5's one word for both."""
    word = str(config["feed_forward_proj"])
    gated, _, name = word.rpartition("-")
    return gated == "gated", "gelu_new" if word == "gated-gelu" else name


def patch_block_sizes(meta: Mapping[str, Tensor]) -> Fields:
    """Widths that vectors tell: those of the tokens and of the blocks that embed patches."""
    return {"embed_dim": meta["encoder.final_layer_norm.weight"].shape[0], "mlp_dim": meta["input_patch_embedding.hidden_layer.bias"].shape[0]}


def digits(meta: Mapping[str, Tensor], start: str) -> int:
    """How many blocks a stack has by the names of its tensors."""
    found = {int(match[1]) for name in meta if (match := re.match(re.escape(start) + r"(\d{1,4})\.", name))}
    return next(n for n in range(len(found) + 1) if n not in found)


def forecasting_fields(config: Fields, known: Mapping[str, str], meta: Mapping[str, Tensor], where: str) -> Fields:
    """Our fields from chronos_config. CheckpointError unless it is there with known entries only: what they say is in no tensor."""
    said = mapping_of(config.get("chronos_config"), "chronos_config", where)
    if not said:
        raise CheckpointError(f"{where} has no chronos_config in its config.json, and no tensor tells its quantiles. Put the config.json of the release beside the weights.")
    require_known(said, known, "chronos_config", where)
    missing = [name for name in ("context_length", "input_patch_size", "quantiles") if name not in said]
    if missing:
        raise CheckpointError(f"{where}: chronos_config lacks {', '.join(missing)}.")
    return {"use_reg_token": False} | {ours: said[theirs] for theirs, ours in known.items() if theirs in said}
