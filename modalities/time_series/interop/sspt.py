"""Checkpoints of the official SSPT <-> ours. The tensor names are the same; heads of attention, which no shape shows, are the paper's unless the config says them."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, numbered, require_arguments, require_telling, settle_heads
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.models.sspt import SSPT, TASKS, SSPTConfig

_READ = {
    "input_size": "in_chans", "num_class": "num_outputs", "hidden_size": "embed_dim", "num_feat_att_layers": "extractor_layers",
    "num_pre_att_layers": "predictor_layers", "num_heads": "num_heads", "days": "days", "dropout": "dropout",
}  # fmt: skip
"""Arguments of the official class -> our fields."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" when the names are those of the official model, else None."""
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    marks = {"feature_extractor.embedding.weight", "feature_extractor.embedding.bias", "feature_extractor.positional_encoding", "fc.weight"}
    return "official" if len(marks & set(keys)) >= 3 else None  # one may be lost: it will be named


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and the arguments in `config`. Raises CheckpointError."""
    given = require_arguments(config, _READ, where)
    width, table, first, head = "feature_extractor.embedding.bias", "feature_extractor.positional_encoding", "feature_extractor.embedding.weight", "fc.bias"
    require_telling(meta, {width: 1, table: 3, first: 2, head: 1}, _names(), layout, where)
    fields: Fields = {
        "embed_dim": meta[width].shape[0], "days": meta[table].shape[1], "in_chans": meta[first].shape[1], "num_outputs": meta[head].shape[0],
        "extractor_layers": numbered(meta, "feature_extractor.attention_layers."), "predictor_layers": numbered(meta, "attention_layers."),
    }  # fmt: skip
    for task, field in TASKS.items():
        names = [f"pretrain_outlayers.{task}.{kind}" for kind in ("bias", "weight")]
        found = [meta[name].shape[0] for name in names if name in meta and meta[name].ndim]
        fields[field] = found[0] if found else 0
    fields |= {ours: given[theirs] for theirs, ours in _READ.items() if theirs in given}
    settle_heads(fields, {SSPTConfig.embed_dim: SSPTConfig.num_heads}, {}, where)
    return Description(layout, SSPT.system, fields)


def to_official(model: Model) -> dict[str, Tensor]:
    """The state dict of the official class."""
    return dict(model.state_dict())


def to_official_config(model: Model) -> Fields:
    """The arguments of the official class for a model."""
    return {theirs: getattr(model.config, ours) for theirs, ours in _READ.items()}


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    model = skeleton(SSPT, SSPTConfig(in_chans=1, days=1, embed_dim=4, num_stocks=1, num_sectors=1, average_price=1), 0, "official")
    return {re.sub(r"\d+", "0", name) for name in model.state_dict()}
