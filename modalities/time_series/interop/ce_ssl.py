"""Checkpoints of the official CE-SSL, with and without low-rank updates, <-> ours. The tensor names are the same; the shapes tell all but `skip`."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, numbered, require_arguments, require_telling
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.models.ce_ssl import CESSL, CESSLConfig

_ARGUMENTS = ("nOUT", "complexity", "inputchannel", "num_layers", "rank_list", "information", "num_encoder_layers", "dropout_coef")
"""Arguments of the official class; only `dropout_coef` is shown by no tensor."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" when the names are those of the official model, else None."""
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    marks = {"encoder_layers.0.conv1.conv.weight", "encoder_layers.0.bn1.weight", "position_encoding.positional_encoding", "encoder_layers.0.bn2.bias"}
    return "official" if len(marks & set(keys)) >= 3 else None  # one may be lost: it will be named


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors. Raises CheckpointError."""
    given = require_arguments(config, _ARGUMENTS, where)
    norm, first, table = "encoder_layers.0.bn1.weight", "encoder_layers.0.conv1.conv.weight", "position_encoding.positional_encoding"
    require_telling(meta, {norm: 1, first: 4, table: 2}, _names(), layout, where)
    last = meta.get("classifier.1.bias")
    mask = meta.get("transformer_layers.0.self_attention.bias")
    fields: Fields = {
        "in_chans": given.get("inputchannel", meta[first].shape[1]),
        "embed_dim": meta[norm].shape[0],
        "conv_blocks": numbered(meta, "encoder_layers."),
        "depth": numbered(meta, "transformer_layers."),
        "longest": meta[table].shape[0],
        "num_classes": 0 if not numbered(meta, "classifier.") else given.get("nOUT", last.shape[0] if last is not None and last.ndim else 1),
    }
    fields |= {"mask_length": mask.shape[2]} if mask is not None and mask.ndim == 4 and mask.shape[2] else {}
    if any(name.endswith((".lora_A", ".lora_B")) for name in meta):
        fields |= {"ranks": _ranks(meta, fields), "skip": given.get("dropout_coef", 0.2)}
    return Description(layout, CESSL.system, fields)


def to_official(model: Model) -> dict[str, Tensor]:
    """The state dict of the official class."""
    return dict(model.state_dict())


def to_official_config(model: Model) -> Fields:
    """The arguments of the official class for a model."""
    c = model.config
    return {
        "nOUT": c.num_classes, "complexity": c.embed_dim, "inputchannel": c.in_chans, "num_encoder_layers": c.conv_blocks,
        "num_layers": 3 * c.conv_blocks + 3 * c.depth + 2, "rank_list": list(c.ranks), "dropout_coef": c.skip,
    }  # fmt: skip


def _ranks(meta: Mapping[str, Tensor], fields: Fields) -> list[int]:
    """The rank of each update, from the outputs' factors (or the inputs', where those are lost)."""
    names = [f"encoder_layers.{i}.conv{n}" for i in range(fields["conv_blocks"]) for n in (1, 2, 3)]
    for i in range(fields["depth"]):
        names += [f"transformer_layers.{i}.{name}" for name in ("self_attention.c_attn", "fc1", "fc2")]
    return [_rank(meta, name) for name in [*names, *(["classifier.0"] if fields["num_classes"] else [])]]


def _rank(meta: Mapping[str, Tensor], name: str) -> int:
    """Rank of one update, the smaller side of its factors: of B, or of A where B is lost."""
    for factor, shares in ((meta.get(f"{name}.lora_B"), 1), (meta.get(f"{name}.lora_A"), 3 if name.endswith("c_attn") else 1)):
        if factor is not None and factor.ndim == 2:
            return min(factor.shape[0] // shares, factor.shape[1])
    return 0


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    model = skeleton(CESSL, CESSLConfig(embed_dim=16, conv_blocks=1, depth=1, mask_length=1, longest=1, ranks=(1,)), 0, "official")
    return {re.sub(r"\d+", "0", name) for name in model.state_dict()}
