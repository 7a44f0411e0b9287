"""Checkpoints of pretrain-gnns (Hu et al. 2020) and of GraphMAE's molecule branch <-> ours.

Layouts, all "official": the GNN alone, as it is released (`x_embedding1.weight`, `gnns.{i}.*`, `batch_norms.{i}.*`); the same under `gnn.` with the
head `graph_pred_linear`; under `gnn.` with GraphMAE's `decoder`. Jumping knowledge, pooling and dropout are shown by no tensor: a config.json
beside them may say them in the words of the official code (JK, graph_pooling, drop_ratio).
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from modalities.common.interop import converted, require_telling
from modalities.common.stored import Description
from modalities.graph.models.encoder import GraphEncoder
from trainer.errors import CheckpointError, ModelError, shorten

State = Mapping[str, Tensor]
Fields = dict[str, Any]

TABLE = "x_embedding1.weight"
HEAD, DECODER = "graph_pred_linear.", "decoder."
UNUSED = {"dec_token": "the official code does not use it"}
UNUSED_OF_LINEAR = {name: "a linear decoder does not use it" for name in ("enc_to_dec.weight", "activation.weight")}
_OWN = re.compile(r"(gnn\.)?(x_embedding[12]\.|gnns\.\d+\.|batch_norms\.\d+\.)|graph_pred_linear\.|decoder\.")


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
    telling = {f"{prefix}x_embedding2.weight": 2, **({f"{HEAD}bias": 1} if any(name.startswith(HEAD) for name in meta) else {})}
    require_telling(meta, telling, known, layout, where)
    kind = config.get("gnn_type", "gin")
    if kind != "gin":
        raise CheckpointError(f"{where} holds a network of the kind {shorten(kind)}; of pretrain-gnns those of the kind 'gin' are read, which are the published ones.")
    fields: Fields = {
        "encoder": "molecule",
        "in_dim": 2,
        "activation": "relu",
        "embed_dim": meta[f"{prefix}x_embedding2.weight"].shape[1],
        "depth": next(n for n in itertools.count(1) if not any(name.startswith(f"{prefix}gnns.{n}.") for name in meta)),
        "jk": config.get("JK", "last"),
        "pool": config.get("graph_pooling", "mean"),
        "dropout": config.get("drop_ratio", 0.0),
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


def from_layout(state: dict[str, Tensor], config: Fields | None, layout: str, where: str) -> tuple[str, Fields, Fields, dict[str, Tensor]]:
    """(system, config fields, objective fields, state in our names) of tensors in a known layout. Raises CheckpointError."""
    described = describe(state, config, layout, where)
    return converted({name: tensor for name, tensor in state.items() if name not in described.ignored}, described, where)


def to_official(model: GraphEncoder) -> dict[str, Tensor]:
    """The weights under the official names: of a bare encoder as it is released, else under `gnn.`. ModelError for an encoder that the official code has not."""
    if model.config.encoder != "molecule":
        raise ModelError(f"pretrain-gnns has no encoder like {model.config.encoder!r}; only the encoder 'molecule' has that layout.")
    prefix = "" if model.system == "graph/encoder" else "gnn."
    return {official_name(name, prefix): tensor for name, tensor in model.state_dict().items()}


def official_config(model: GraphEncoder) -> Fields:
    """What no tensor shows, in the words of the official code."""
    c = model.config
    return {"num_layer": c.depth, "emb_dim": c.embed_dim, "JK": c.jk, "graph_pooling": c.pool, "drop_ratio": c.dropout, **({"decoder": c.decoder} if hasattr(c, "decoder") else {})}


def official_name(name: str, prefix: str) -> str:
    """Our name -> that of the official code."""
    if name.startswith("encoder."):
        return prefix + name.removeprefix("encoder.")
    return name.replace("head.", HEAD) if name.startswith("head.") else name


def _objective(config: Fields) -> Fields:
    return {ours: config[theirs] for theirs, ours in {"mask_rate": "mask_rate", "alpha_l": "alpha", "mask_edge": "mask_edge"}.items() if theirs in config}
