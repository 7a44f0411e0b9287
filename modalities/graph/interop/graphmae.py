"""GraphMAE checkpoints of the official code <-> ours: the whole model, or its encoder alone. The tensors have the same names; the network is told by
them and by the config.

The official code saves tensors alone, so what no tensor shows (heads of dot-product attention, the activation where it has no
parameters) is taken from a config.json beside them, and else is what the published recipes use.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from modalities.common.interop import converted, numbered, require_telling
from modalities.common.stored import Description
from modalities.graph.models.encoder import GraphEncoder
from trainer.errors import CheckpointError, ModelError, shorten

State = Mapping[str, Tensor]
Fields = dict[str, Any]

LISTS = {"gat_layers": "gat", "layers": "gin", "gcn_layers": "gcn"}
"""Name of the list of layers -> kind of layer."""
TOKEN, BRIDGE = "enc_mask_token", "encoder_to_decoder.weight"
HEADS = 4
"""Of the published networks with attention, most."""
_OF_LAYERS = re.compile(r"encoder\.((gat|gcn)_layers\.\d+\.fc|layers\.\d+\.apply_func)\.")
"""Tensors of an encoder; only GraphMAE's have such names."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """The layout of a checkpoint by its tensor names, or None when it is not ours to read."""
    keys = set(keys)
    if config is not None and not isinstance(config, dict):
        return None
    if any(_OF_LAYERS.match(name) for name in keys):
        return "official"
    known = sum((TOKEN in keys, BRIDGE in keys, any(k.startswith("decoder.") for k in keys), any(_list_of(k, "encoder.") for k in keys)))
    return "official" if known >= 3 and any(_list_of(k, "encoder.") for k in keys) else None


def describe(meta: State, config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and what its config says. Raises CheckpointError."""
    plain = "activation" in (config or {}) and config["activation"] is None  # said to have none, which is not the same as nothing said
    config = {name: value for name, value in (config or {}).items() if value is not None}
    known = {re.sub(r"\d+", "0", name) for name in meta if name.startswith(("encoder.", "decoder.")) or name in (TOKEN, BRIDGE)}
    kind, prefix = _kind(meta, "encoder.", config.get("encoder_type"), where)
    whole = any(name in (TOKEN, BRIDGE) or name.startswith("decoder.") for name in meta)
    width, inner = ((BRIDGE, 2), (TOKEN, 2)) if whole else _first_layer(meta, kind, f"{prefix}.0.")
    require_telling(meta, dict((width, inner)), known, layout, where)
    fields: Fields = {"encoder": kind, "in_dim": meta[inner[0]].shape[1], "embed_dim": meta[width[0]].shape[0], "depth": max(numbered(meta, f"{prefix}."), 1)}
    if whole:
        fields["concat_hidden"] = fields["depth"] > 1 and meta[BRIDGE].shape[1] == fields["depth"] * fields["embed_dim"]
        fields["decoder"] = _decoder(meta, config.get("decoder_type"), where)
    fields["num_heads"] = _heads(meta, f"{prefix}.0.", config) if kind in ("gat", "dotgat") else 1
    fields["norm"] = _norm(meta, kind, prefix, config.get("norm"))
    fields["activation"] = "none" if plain else config.get("activation") or _activation(meta, kind, fields["depth"], where)
    fields["residual"] = bool(config.get("residual", any(".res_fc." in name for name in meta)))
    fields["dropout"] = config.get("feat_drop", config.get("in_drop", 0.2))
    fields["attn_dropout"] = config.get("attn_drop", 0.1) if kind in ("gat", "dotgat") else 0.0
    fields["negative_slope"] = config.get("negative_slope", 0.2)
    fields["pool"] = config.get("pooling", "mean")
    return Description(layout, "graph/graphmae" if whole else "graph/encoder", fields, objective=_objective(config) if whole else {}, preprocess={"in_dim": fields["in_dim"]})


def from_layout(state: dict[str, Tensor], config: Fields | None, layout: str, where: str) -> tuple[str, Fields, Fields, dict[str, Tensor]]:
    """(system, config fields, objective fields, state in our names) of tensors in a known layout. Raises CheckpointError."""
    return converted(state, describe(state, config, layout, where), where)


def _objective(config: Fields) -> Fields:
    names = {"mask_rate": "mask_rate", "replace_rate": "replace_rate", "drop_edge_rate": "drop_edge_rate", "loss_fn": "loss", "alpha_l": "alpha"}
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}


def _list_of(name: str, prefix: str) -> str | None:
    """The list of layers that a tensor belongs to."""
    head = name.removeprefix(prefix).partition(".")[0] if name.startswith(prefix) else ""
    return head if head in LISTS else None


def _kind(meta: State, prefix: str, said: str | None, where: str) -> tuple[str, str]:
    """(kind of layer, name of the list of layers) of an encoder or decoder. Attention without vectors for the ends of edges is that of products."""
    found = next((part for name in meta if (part := _list_of(name, prefix))), None)
    if found is None:
        raise CheckpointError(f"{where} holds no layers of a graph network under {prefix}*; expected {', '.join(f'{prefix}{name}.0.*' for name in LISTS)}.")
    kind = LISTS[found]
    if kind == "gat" and not any(".attn_l" in name or ".attn_r" in name for name in meta if name.startswith(prefix)):
        kind = "dotgat"
    if said is not None and said != kind:
        raise CheckpointError(f"{where}: its config says that the {prefix.rstrip('.')} is {shorten(said)}, and its tensors are those of {kind!r}.")
    return kind, f"{prefix}{found}"


def _decoder(meta: State, said: str | None, where: str) -> str:
    if any(re.match(r"decoder\.\d+\.", name) for name in meta):
        return "mlp"
    if any(re.match(r"decoder\.(weight|bias)", name) for name in meta):
        return "linear"
    return _kind(meta, "decoder.", said, where)[0]


def _first_layer(meta: State, kind: str, layer: str) -> tuple[tuple[str, int], tuple[str, int]]:
    """(tensor and axes) of the first layer whose length is the width, and of the one whose second axis is the input's."""
    inside = next((part for part in ("apply_func.mlp.linears.0.", "apply_func.linears.0.") if any(name.startswith(layer + part) for name in meta)), "apply_func.mlp.linears.0.")
    part = layer + (inside if kind == "gin" else "" if kind == "gat" else "fc.")
    weight = f"{layer}fc.weight" if kind == "gat" else f"{part}weight"
    return ((weight, 2) if kind == "dotgat" else (f"{part}bias", 1)), (weight, 2)


def _heads(meta: State, layer: str, config: Fields) -> int:
    """Heads of the encoder: told by the attention vectors; those of products show none."""
    vector = meta.get(f"{layer}attn_l", meta.get(f"{layer}attn_r"))
    return vector.shape[1] if vector is not None and vector.ndim == 3 else config.get("nhead", config.get("num_heads", HEADS))


def _activation(meta: State, kind: str, depth: int, where: str) -> str:
    """prelu, where its slopes are there or where there is no activation; others have no tensors, so the config has to say which. CheckpointError if it does not."""
    if any(re.match(r"encoder\..*\.(_?activation|activations\.0|act)\.weight", name) for name in meta) or (depth == 1 and kind in ("gat", "dotgat")):
        return "prelu"
    raise CheckpointError(f'{where} holds no slopes of prelu, so its activation is another one. Say which in a config.json beside it: {{"activation": "relu"}}.')


def _norm(meta: State, kind: str, prefix: str, said: str | None) -> str:
    """The norm of the encoder's layers, told by its tensors."""
    norms = [name for name in meta if name.startswith(f"{prefix}.0.") and (".norm." in name or ".norms." in name)]
    if not norms:
        return said or "none"
    return "batchnorm" if any(name.endswith("running_mean") for name in norms) else said or "layernorm"


def official_config(model: GraphEncoder) -> Fields:
    """Arguments of the official class for a model, or an encoder alone. ModelError for an encoder that the official code has not."""
    c = model.config
    if c.encoder not in LISTS.values() and c.encoder != "dotgat":
        raise ModelError(f"GraphMAE's official code has no encoder {c.encoder!r}; it has {', '.join([*LISTS.values(), 'dotgat'])}.")
    if c.jk != "last":
        raise ModelError(f"GraphMAE's official code takes the last layer for the embedding, and model.jk is {c.jk!r}.")
    fields = {
        "in_dim": c.in_dim, "num_hidden": c.embed_dim, "num_layers": c.depth, "nhead": c.num_heads, "encoder_type": c.encoder,
        "activation": None if c.activation == "none" else c.activation, "norm": None if c.norm == "none" else c.norm,
        "residual": c.residual, "feat_drop": c.dropout, "attn_drop": c.attn_dropout, "negative_slope": c.negative_slope, "pooling": c.pool,
    }  # fmt: skip
    return fields | ({"nhead_out": c.decoder_heads, "decoder_type": c.decoder, "concat_hidden": c.concat_hidden} if hasattr(c, "decoder_heads") else {})
