"""Checkpoints of pretrain-gnns (Hu et al. 2020) and of GraphMAE's molecule branch <-> ours.

Layouts, all "official": the GNN alone, as it is released (`x_embedding1.weight`, `gnns.{i}.*`, `batch_norms.{i}.*`); the same under `gnn.` with the
head `graph_pred_linear`; under `gnn.` with GraphMAE's `decoder`. Jumping knowledge, pooling and dropout are shown by no tensor: a config.json
beside them may say them in the words of the official code (JK, graph_pooling, drop_ratio). It must say gnn_type where the layers are those of gcn or
graphsage, whose tensors have the same names and shapes.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from modalities.common.interop import converted, numbered, require_telling
from modalities.common.stored import Description
from modalities.graph.models.encoder import GraphEncoder
from trainer.errors import CheckpointError, ModelError, shorten

State = Mapping[str, Tensor]
Fields = dict[str, Any]

TABLE = "x_embedding1.weight"
HEAD, DECODER = "graph_pred_linear.", "decoder."
UNUSED = {"dec_token": "the official code does not use it"}
UNUSED_OF_LINEAR = {name: "a linear decoder does not use it" for name in ("enc_to_dec.weight", "activation.weight")}
LAYERS = {"mlp": ("gin",), "att": ("gat",), "weight_linear": ("gat",), "linear": ("gcn", "graphsage")}
"""A part of a layer -> the kinds that have it."""
_OWN = re.compile(r"(gnn\.)?(x_embedding[12]\.|gnns\.\d+\.|batch_norms\.\d+\.)|graph_pred_linear\.|decoder\.|pool\.")


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """The layout of a checkpoint by its tensor names, or None when it is not ours to read."""
    keys = set(keys)
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    for prefix in ("", "gnn."):
        if any(f"{prefix}x_embedding{i}.weight" in keys for i in (1, 2)) and any(re.match(rf"{re.escape(prefix)}gnns\.\d+\.", name) for name in keys):
            return "official"
    return None


def describe(meta: State, config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and what its config says. Raises CheckpointError."""
    config = {name: value for name, value in (config or {}).items() if value is not None}
    prefix = "gnn." if any(name.startswith("gnn.") for name in meta) else ""
    known = {re.sub(r"\d+", "0", name) for name in meta if _OWN.match(name)}
    kind, heads = _layer(meta, f"{prefix}gnns.", config.get("gnn_type"), where), f"{prefix}gnns.0.weight_linear.bias"
    telling = {f"{prefix}x_embedding2.weight": 2, **({heads: 1} if kind == "gat" else {}), **({f"{HEAD}bias": 1} if any(name.startswith(HEAD) for name in meta) else {})}
    require_telling(meta, telling, known, layout, where)
    width = meta[f"{prefix}x_embedding2.weight"].shape[1]
    fields: Fields = {
        "encoder": "molecule",
        "bond_layer": kind,
        "in_dim": 2,
        "activation": "relu",
        "embed_dim": width,
        "depth": max(numbered(meta, f"{prefix}gnns."), 1),
        "jk": config.get("JK", "last"),
        "dropout": config.get("drop_ratio", 0.0),
        **_pooling(meta, config.get("graph_pooling"), where),
        **({"num_heads": max(len(meta[heads]) // width, 1)} if kind == "gat" else {}),
    }
    system, ignored = "graph/encoder", {}
    if f"{HEAD}bias" in meta:
        system = "graph/classifier"
        fields |= {"num_classes": meta[f"{HEAD}bias"].shape[0], "multi_label": True}
    elif any(name.startswith(DECODER) for name in meta):
        system = "graph/graphmae-molecules"
        fields["decoder"] = config.get("decoder", "linear" if f"{DECODER}dec.weight" in meta else "gcn" if f"{DECODER}conv.linear.weight" in meta else "gin")
        unused = UNUSED | (UNUSED_OF_LINEAR if fields["decoder"] == "linear" else {})
        ignored = {f"{DECODER}{name}": why for name, why in unused.items() if f"{DECODER}{name}" in meta}
    return Description(layout, system, fields, lambda name: (official_name(name, prefix),), _objective(config), ignored=ignored)


def _layer(meta: State, start: str, said: str | None, where: str) -> str:
    """Kind of the layers. CheckpointError where the config says another than the tensors, or the tensors fit two kinds and nothing says which."""
    parts = {name[len(start) :].split(".")[1] for name in meta if re.match(rf"{re.escape(start)}\d+\.", name)}
    kinds = next((kinds for part, kinds in LAYERS.items() if part in parts), ("gin",))
    if said is not None and said not in kinds:
        raise CheckpointError(f"{where}: its config says gnn_type {shorten(said)}, and its tensors are those of {' or '.join(map(repr, kinds))}.")
    if said is None and len(kinds) > 1:
        raise CheckpointError(
            f"{where} holds layers of the kind {' or '.join(map(repr, kinds))}, whose tensors look alike. Say which in a config.json beside it: {{\"gnn_type\": \"{kinds[0]}\"}}."
        )
    return said or kinds[0]


def _pooling(meta: State, said: str | None, where: str) -> Fields:
    """How nodes become a vector. Weights show which learned pooling it is; the steps of set2set are the last figure of its name."""
    shown = next((name for name, part in (("attention", "pool.gate_nn."), ("set2set", "pool.lstm.")) if any(n.startswith(part) for n in meta)), None)
    steps = re.fullmatch(r"set2set(\d)", said) if isinstance(said, str) else None
    if shown == "set2set" and not steps:
        raise CheckpointError(f"{where} pools by set2set, and the number of its steps is shown by no tensor. Say it in a config.json beside it, as {{\"graph_pooling\": \"set2set3\"}}.")
    if steps:
        return {"pool": "set2set", "pool_steps": int(steps[1])}
    return {"pool": said or shown or "mean"}


def from_layout(state: dict[str, Tensor], config: Fields | None, layout: str, where: str) -> tuple[str, Fields, Fields, dict[str, Tensor]]:
    """(system, config fields, objective fields, state in our names) of tensors in a known layout. Raises CheckpointError."""
    described = describe(state, config, layout, where)
    return converted({name: tensor for name, tensor in state.items() if name not in described.ignored}, described, where)


def to_official(model: GraphEncoder) -> dict[str, Tensor]:
    """The weights under the official names: of a bare encoder as it is released, else under `gnn.`. ModelError for a model that the official code has not."""
    if model.config.encoder != "molecule" or getattr(model.config, "level", "graph") != "graph":
        raise ModelError(f"pretrain-gnns classifies graphs, with the encoder 'molecule'; this is a {model.system} with the encoder {model.config.encoder!r}.")
    prefix = "" if model.system == "graph/encoder" else "gnn."
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    if len(state) < len(model.state_dict()):
        state |= {f"head.{name}": tensor for name, tensor in model.linear_head().items()}
    return {official_name(name, prefix): tensor for name, tensor in state.items()} | _unused(model)


def _unused(model: GraphEncoder) -> dict[str, Tensor]:
    """Tensors that the class of GraphMAE's decoder has and does not use, as it makes them: without them it would not take the others."""
    if model.system != "graph/graphmae-molecules":
        return {}
    width = model.config.embed_dim
    found = {"dec_token": torch.zeros(1, width)}
    if model.config.decoder == "linear":
        found |= {"enc_to_dec.weight": torch.zeros(width, width), "activation.weight": torch.full((1,), 0.25)}
    return {f"{DECODER}{name}": tensor for name, tensor in found.items()}


def official_config(model: GraphEncoder) -> Fields:
    """What no tensor shows, in the words of the official code."""
    c = model.config
    pool = f"set2set{c.pool_steps}" if c.pool == "set2set" else c.pool
    fields = {"num_layer": c.depth, "emb_dim": c.embed_dim, "gnn_type": c.bond_layer, "JK": c.jk, "graph_pooling": pool, "drop_ratio": c.dropout}
    return fields | ({"decoder": c.decoder} if hasattr(c, "decoder") else {})


def official_name(name: str, prefix: str) -> str:
    """Our name -> that of the official code."""
    if name.startswith("encoder."):
        return prefix + name.removeprefix("encoder.")
    return name.replace("head.", HEAD) if name.startswith("head.") else name


def _objective(config: Fields) -> Fields:
    return {ours: config[theirs] for theirs, ours in {"mask_rate": "mask_rate", "alpha_l": "alpha", "mask_edge": "mask_edge"}.items() if theirs in config}
