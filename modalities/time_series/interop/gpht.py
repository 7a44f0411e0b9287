"""Checkpoints of the official GPHT <-> ours. The tensor names are the same; the config is in the words of the official class.

Depths, widths and pooling are read from the shapes; the number of heads, which no shape shows, is the paper's unless the config says it.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, numbered, require_arguments, require_telling, settle_heads
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.models.gpht import GPHT, GPHTConfig

_READ = {"n_heads": "num_heads", "activation": "activation", "dropout": "dropout", "seq_len": "context_length"}
"""Arguments of the official class -> our fields, for those that no shape shows."""
_SHOWN = {"GT_d_model": "embed_dim", "GT_d_ff": "hidden_dim", "GT_e_layers": "stage_layers", "token_len": "token_length"}
"""Arguments that the shapes tell, too."""
_OTHERS = ("depth", "GT_pooling_rate", "factor", "output_attention", "pred_len", "label_len")
"""Arguments that only the shapes tell, or on which no weight and no output depends."""
_TABLE = "position_embedding.pe"
"""The end of the name of a stage's sine-cosine table, which the official code stores and we compute."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" when the names are those of the official model, else None."""
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    found = {re.sub(r"\d+", "0", name) for name in keys}
    marks = {"encoders.0.patch_embedding.value_embedding.weight", "encoders.0.forecast_head.weight", "encoders.0.encoder.norm.weight"}
    return "official" if len(marks & found) >= 2 else None  # one may be lost: it will be named


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and the arguments in `config`. Raises CheckpointError."""
    config = require_arguments(config, (*_READ, *_SHOWN, *_OTHERS), where)
    first = "encoders.0.encoder.attn_layers.0.conv1.bias"
    norm, head = "encoders.0.encoder.norm.weight", "encoders.0.forecast_head.bias"
    require_telling(meta, {first: 1, norm: 1, head: 1}, _names(), layout, where)
    token, width = meta[head].shape[0], meta[norm].shape[0]
    fields = {
        "token_length": token, "embed_dim": width, "hidden_dim": meta[first].shape[0],
        "pooling": tuple(_pooling(meta, stage, token) for stage in range(numbered(meta, "encoders."))),
        "stage_layers": numbered(meta, "encoders.0.encoder.attn_layers."),
    }  # fmt: skip
    fields |= {ours: config[theirs] for theirs, ours in (_READ | _SHOWN).items() if theirs in config}
    settle_heads(fields, {GPHTConfig.embed_dim: GPHTConfig.num_heads}, {}, where)
    fields.setdefault("context_length", GPHTConfig.context_length // token * token or token)
    tables = {name: "the table of positions is computed" for name in meta if name.endswith(_TABLE)}
    return Description(layout, GPHT.system, fields, ignored=tables)


def to_official(model: Model) -> dict[str, Tensor]:
    """The state dict of the official class but for its tables of positions, which follow from the config."""
    return dict(model.state_dict())


def to_official_config(model: Model) -> Fields:
    """The arguments of the official class for a model."""
    config = model.config
    return {
        **{theirs: getattr(config, ours) for theirs, ours in (_READ | _SHOWN).items()},
        "depth": len(config.pooling), "GT_pooling_rate": list(config.pooling), "pred_len": config.token_length, "factor": 1, "output_attention": False,
    }  # fmt: skip


def _pooling(meta: Mapping[str, Tensor], stage: int, token: int) -> int:
    """The pooling of a stage: tokens of so many points, in patches as its weights say; 1 where they are lost or wrong, which will be named."""
    patch = meta.get(f"encoders.{stage}.patch_embedding.value_embedding.weight")
    fits = patch is not None and patch.ndim == 2 and patch.shape[1] and token % patch.shape[1] == 0
    return token // patch.shape[1] if fits else 1


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    size = dict(context_length=1, token_length=1, pooling=(1,), embed_dim=2, hidden_dim=1, num_heads=1, stage_layers=1)
    model = skeleton(GPHT, GPHTConfig(**size), 0, "official")
    return {re.sub(r"\d+", "0", name) for name in model.state_dict()} | {f"encoders.0.patch_embedding.{_TABLE}"}
