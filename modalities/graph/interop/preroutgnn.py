"""Checkpoints of PreRoutGNN's official code <-> ours: `encoder.*` with `decoder.*` (the auto-encoder) or with `model.*` (the timing network).

All sizes are told by shapes. The largest level, the heads of the attention and a dropout are not: a config.json beside the tensors may say
`max_level`, `num_heads` and `dropout`; else they are the published ones. A timing network without encoder is read where the config says
`use_graph_autoencoder: false`; else a file without `encoder.*` is one that lacks it.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from modalities.common.interop import converted, numbered, require_telling
from modalities.common.stored import Description
from modalities.graph.circuits import EDGE_FEATURES, PIN_FEATURES
from modalities.graph.models.circuit_autoencoder import CircuitModel

State = Mapping[str, Tensor]
Fields = dict[str, Any]

PARTS = {
    "timing": "model", "first": "layer0", "middle": "layers_store", "last": "layern", "message": "MLP_msg.layers", "reduce": "MLP_reduce.layers",
    "up": "dim_up", "to_sinks": "MLP_msg_o2i.layers", "to_drivers": "MLP_msg_i2o.layers", "drivers": "MLP_reduce_o.layers", "net_delay": "to_netdelay.layers",
    "propagation": "prop", "net_arc": "MLP_netprop.layers", "query": "MLP_lut_query.layers", "attention": "msa", "cell_arc": "MLP_cellarc_msg.layers",
    "cell_end": "MLP_cellreduce.layers",
}  # fmt: skip
"""Our name of a part -> the official one."""
STARTS = ("encoder.layer0.", "encoder.layern.", "decoder.layer0.", "model.prop.", "model.nc1.", "model.dim_up.")
UP = "model.dim_up.0.weight"
"""The layer that reads the features of pins and, where there is an encoder, their latents."""
DROPOUT = 0.1
"""Taken where the numbers of the layers show that there was one, and nothing says how much."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """The layout of a checkpoint by its tensor names, or None when it is not ours to read."""
    keys = set(keys)
    if config is not None and not isinstance(config, dict):
        return None
    return "official" if sum(any(name.startswith(start) for name in keys) for start in STARTS) >= 3 else None


def describe(meta: State, config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and what its config says. Raises CheckpointError."""
    config = {name: value for name, value in (config or {}).items() if value is not None}
    timed = any(name.startswith("model.") for name in meta)
    encoded = not timed or config.get("use_graph_autoencoder") is not False
    known = {re.sub(r"\d+", "0", name) for name in meta if re.match(r"(encoder|decoder|model)\.(\w+\.)*(layers\.\d+\.|msa\.|dim_up\.0\.)(\w+\.)?\w+$", name)}
    telling = {**(telling_encoder(meta) if encoded else {UP: 2}), **(telling_timing(meta) if timed else {})}
    require_telling(meta, telling, known, layout, where)
    fields = (encoder_fields(meta) if encoded else without_encoder(meta)) | told_by_config(meta, config) | (timing_fields(meta, config) if timed else {})
    unused = {name: "only pre-training needs it" for name in meta if timed and name.startswith("decoder.")}
    return Description(layout, "graph/preroutgnn" if timed else "graph/circuit-autoencoder", fields, lambda name: (official_name(name),), ignored=unused)


def from_layout(state: dict[str, Tensor], config: Fields | None, layout: str, where: str) -> tuple[str, Fields, Fields, dict[str, Tensor]]:
    """(system, config fields, objective fields, state in our names) of tensors in a known layout. Raises CheckpointError."""
    described = describe(state, config, layout, where)
    return converted({name: tensor for name, tensor in state.items() if name not in described.ignored}, described, where)


def telling_encoder(meta: State, stack: str = "encoder") -> dict[str, int]:
    """The tensors that tell the sizes of an encoder or a decoder -> their axes."""
    end = 3 * _stride(meta)
    vectors = ("layer0.MLP_msg.layers.0", f"layer0.MLP_msg.layers.{end}", f"layer0.MLP_reduce.layers.{end}", f"layern.MLP_reduce.layers.{end}")
    return {f"{stack}.layer0.MLP_msg.layers.0.weight": 2, **{f"{stack}.{name}.bias": 1 for name in vectors}}


def encoder_fields(meta: State, stack: str = "encoder") -> Fields:
    """Fields of the config that the shapes of an encoder tell; of a decoder those that it shares, and its input as `latent_dim`."""
    first, hidden, messages, width, outer = (meta[name].shape[-1] for name in telling_encoder(meta, stack))
    inner = (first - EDGE_FEATURES) // 2
    own = {"frequencies": max((inner - PIN_FEATURES - 1) // 2, 0), "latent_dim": outer} if stack == "encoder" else {"latent_dim": max(inner, 1)}
    return own | {"hidden_dim": width, "depth": 2 + numbered(meta, f"{stack}.layers_store."), "mlp_dim": hidden, "message_dim": max((messages - 1) // 4, 1)}


def without_encoder(meta: State) -> Fields:
    """Fields of the config that a timing network without encoder tells of it."""
    return {"latent_dim": 0, "frequencies": max((meta[UP].shape[1] - PIN_FEATURES - 1) // 2, 0)}


def told_by_config(meta: State, config: Fields) -> Fields:
    """What no shape tells."""
    return {"max_level": config.get("max_level", 200), "dropout": config.get("dropout", 0.0 if _stride(meta) == 2 else DROPOUT)}


def telling_timing(meta: State) -> dict[str, int]:
    """The tensors that tell the sizes of the timing network -> their axes."""
    end = 3 * _stride(meta)
    names = ("dim_up.0", "nc1.MLP_msg_o2i.layers.0", "prop.MLP_netprop.layers.0", f"nc1.MLP_msg_i2o.layers.{end}", "prop.msa.out_proj")
    return {f"model.{name}.bias": 1 for name in names}


def timing_fields(meta: State, config: Fields) -> Fields:
    """Fields of the config that the shapes of the timing network tell."""
    gcn, net, cell, pooled, table = (len(meta[name]) for name in telling_timing(meta))
    return {"gcn_dim": gcn, "net_dim": net, "cell_dim": cell, "pool_dim": max((pooled - 1) // 2, 1), "table_dim": table, "table_heads": config.get("num_heads", 4)}


def official_name(name: str) -> str:
    """Our name of a tensor -> that of the official code."""
    name = re.sub(r"\bconvs\.(\d+)", lambda found: f"nc{int(found[1]) + 1}", name)
    return ".".join(PARTS.get(part, part) for part in name.split("."))


def to_official(model: CircuitModel) -> dict[str, Tensor]:
    """The weights under the official names."""
    return {official_name(name): tensor for name, tensor in model.state_dict().items()}


def official_config(model: CircuitModel) -> Fields:
    """Arguments of the official code for a model, and what no tensor shows."""
    c = model.config
    fields = {
        "num_level_freq_compents": c.frequencies, "max_level": c.max_level, "latent_dim": c.latent_dim, "ae_hidden_dim": c.hidden_dim, "ae_n_layers": c.depth, "dropout": c.dropout,
    }  # fmt: skip
    if hasattr(c, "gcn_dim"):
        fields |= {"use_graph_autoencoder": c.latent_dim > 0, "hidden_dim_gcn": c.gcn_dim, "hidden_dim_netprop": c.net_dim, "hidden_dim_cellprop": c.cell_dim, "num_heads": c.table_heads}
    return fields


def _stride(meta: State) -> int:
    """Numbers from one linear layer to the next: an activation lies between them, and perhaps a dropout."""
    return 3 if any(re.search(r"\.MLP_\w+\.layers\.3\.(weight|bias)$", name) for name in meta) else 2
