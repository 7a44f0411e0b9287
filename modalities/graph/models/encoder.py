"""Graph encoders by name, interchangeable under every objective.

`gin`, `gat`, `dotgat` and `gcn` are those of GraphMAE (`layers`), `sage`, `pna` and `gps` consist of PyG's layers (`library`), and `molecule` is
the network with bond features of Hu et al. (`molecule_network`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from modalities.common.linear import use_faster
from modalities.common.model import Model
from modalities.graph.models.layers import require_heads
from modalities.graph.models.library import GPS, Convolutions, pna, sage
from modalities.graph.models.messages import Pool, pool_nodes
from modalities.graph.models.molecule_network import MoleculeNetwork
from modalities.graph.models.stacks import STACKS, StackConfig
from modalities.graph.preprocess import GraphPreprocess
from trainer.errors import ConfigError, DataError

HEADED = ("gat", "dotgat", "gps")
"""Encoders whose width is divided among heads."""


@dataclass(frozen=True)
class GraphEncoderConfig:
    """Which network turns node features into node embeddings, and how those of a graph become one vector."""

    encoder: Literal["gin", "gat", "dotgat", "gcn", "sage", "pna", "gps", "molecule"] = "gin"
    """Kind of layer."""
    in_dim: int = 16
    """Width of the node features; molecule: 2, the numbers of atom and chirality."""
    embed_dim: int = 64
    """Width of the embeddings, all heads together."""
    depth: int = 2
    """Layers."""
    num_heads: int = 4
    """Heads of attention, for the encoders that have such."""
    norm: Literal["none", "batchnorm", "layernorm"] = "batchnorm"
    """After each layer (gin: inside its MLP, too; molecule: batchnorm, always)."""
    activation: Literal["prelu", "relu", "elu", "gelu", "none"] = "prelu"
    """After each layer (gps and molecule: relu, always)."""
    residual: bool = False
    """Add the input of each layer to its output."""
    dropout: float = 0.0
    """Share of the features before each layer that are set to zero in training."""
    attn_dropout: float = 0.0
    """Share of the attention weights that are set to zero in training."""
    negative_slope: float = 0.2
    """Slope below zero of the scores of gat."""
    jk: Literal["last", "concat", "max", "sum"] = "last"
    """What the embedding is made of: the last layer, or all of them (jumping knowledge; of molecule the atoms' own embedding, too)."""
    pool: Pool = "mean"
    """How the embeddings of a graph's nodes become one vector."""
    positions: Literal["none", "laplacian", "random_walk"] = "none"
    """What gps is told of the place of a node in its graph."""
    position_dim: int = 0
    """Numbers that describe a node's place: eigenvectors, or steps of the walk."""
    mean_degree: int = 4
    """Edges per node of the graphs for which pna is made."""
    bond_layer: Literal["gin", "gcn", "gat", "graphsage"] = "gin"
    """Kind of layer of the encoder 'molecule'; the heads of its gat are each as wide as the embedding."""

    def __post_init__(self) -> None:
        for name in ("in_dim", "embed_dim", "depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("dropout", "attn_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 0 and below 1, found {getattr(self, name)}.")
        if (self.positions == "none") is not (self.position_dim == 0) or self.position_dim < 0:
            raise ConfigError(f"model.positions={self.positions!r} and model.position_dim={self.position_dim} do not go together: give both or neither.")
        fixed = {"molecule": {"in_dim": 2, "norm": "batchnorm", "activation": "relu", "residual": False}, "gps": {"activation": "relu", "residual": False}}
        for name, value in fixed.get(self.encoder, {}).items():
            if getattr(self, name) != value:
                raise ConfigError(f"model.{name} of the encoder {self.encoder!r} is {value!r}, always; found {getattr(self, name)!r}.")
        if self.positions != "none" and self.encoder != "gps":
            raise ConfigError(f"model.positions is for the encoder 'gps', and model.encoder is {self.encoder!r}.")
        if self.bond_layer != "gin" and self.encoder != "molecule":
            raise ConfigError(f"model.bond_layer is for the encoder 'molecule', and model.encoder is {self.encoder!r}.")
        if self.num_heads < 1:
            raise ConfigError(f"model.num_heads must be at least 1, found {self.num_heads}.")
        if self.mean_degree < 1:
            raise ConfigError(f"model.mean_degree must be at least 1, found {self.mean_degree}.")
        if self.encoder in HEADED:
            require_heads(self.embed_dim, self.num_heads, "model.num_heads")
        elif self.attn_dropout:
            raise ConfigError(f"model.attn_dropout is for encoders with attention ({', '.join(HEADED)}), and model.encoder is {self.encoder!r}. Set it to 0.")

    @property
    def width(self) -> int:
        """Width of a node's embedding, after `jk`."""
        states = self.depth + (self.encoder == "molecule")
        return self.embed_dim * (states if self.jk == "concat" else 1)

    def build_encoder(self) -> nn.Module:
        """The network from (N, in_dim), edges, their features and the batch to the states after its layers."""
        if self.encoder == "molecule":
            return MoleculeNetwork(self.embed_dim, self.depth, self.dropout, self.bond_layer, self.num_heads)
        if self.encoder == "gps":
            flip = self.positions == "laplacian"
            return GPS(self.in_dim, self.embed_dim, self.depth, self.num_heads, self.norm, self.dropout, self.attn_dropout, self.position_dim, flip)
        if self.encoder in ("sage", "pna"):
            layer = sage if self.encoder == "sage" else pna(self.mean_degree)
            return Convolutions(layer, self.in_dim, self.embed_dim, self.depth, self.norm, self.activation, self.residual, self.dropout)
        heads = self.num_heads if self.encoder in HEADED else 1
        each = self.embed_dim // heads
        return STACKS[self.encoder](
            StackConfig(
                self.in_dim, each, each, self.depth, heads, heads, self.norm, self.activation, self.residual, self.dropout, self.attn_dropout, self.negative_slope,
            )
        )  # fmt: skip


class GraphEncoder(Model):
    """Input: a PyG `Batch` (or a `Data`, one graph) with `x` (N, in_dim) float and `edge_index` (2, E) int64, as `preprocess` makes it.

    `tokens` gives the embedding of every node, (N, width), those of all graphs one after another (`batch.batch` (N,) says whose they
    are); `embed` pools them, (graphs, width).
    """

    system = "graph/encoder"
    config_class = GraphEncoderConfig
    input_key = "x"
    parts = {"encoder.": "encoder"}

    def __init__(self, config: GraphEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = config.build_encoder()
        use_faster(self)

    @property
    def width(self) -> int:
        """Width of a node's embedding."""
        return self.config.width

    def features(self, batch: Batch) -> Tensor:
        """The node features of a batch, or DataError when they do not fit this network."""
        x = batch["x"] if "x" in batch else None
        if x is None or x.ndim != 2 or x.shape[1] != self.config.in_dim:
            found = "no x" if x is None else f"x of shape {tuple(x.shape)}"
            raise DataError(f"{type(self).__name__} reads x (nodes, {self.config.in_dim}); this batch holds {found}. Make it with model.preprocess(graphs).")
        return x

    def states(self, batch: Batch, x: Tensor | None = None, edge_index: Tensor | None = None, edge_attr: Tensor | None = None) -> list[Tensor]:
        """What each layer gives for the nodes, [(N, embed_dim), ...]; with other features or edges than those of the batch, where given."""
        x, edge_index = self.features(batch) if x is None else x, batch["edge_index"] if edge_index is None else edge_index
        if edge_attr is None and self.config.encoder == "molecule":
            edge_attr = self.bonds(batch)
        return self.encoder(x, edge_index, edge_attr, batch)

    def bonds(self, batch: Batch) -> Tensor:
        """The bonds (E, 2) of a batch of molecules, or DataError when there are none."""
        if "edge_attr" not in batch or batch["edge_attr"].is_floating_point():
            raise DataError("A network for molecules reads edge_attr (edges, 2) int64, the numbers of bond and direction; this batch holds none. Make it with model.preprocess(molecules).")
        return batch["edge_attr"]

    def combined(self, states: list[Tensor]) -> Tensor:
        """The embedding (N, width) of the states, as `jk` says."""
        if self.config.jk == "last":
            return states[-1]
        if self.config.jk == "concat":
            return torch.cat(states, dim=1)
        stacked = torch.stack(states)
        return stacked.amax(dim=0) if self.config.jk == "max" else stacked.sum(dim=0)

    def tokens(self, batch: Batch) -> Tensor:
        """Embedding of each node, (N, width)."""
        return self.combined(self.states(batch))

    def embed(self, batch: Batch) -> Tensor:
        """One vector per graph, (graphs, width); of a batch with `root` one for each node that it names."""
        tokens = self.tokens(batch)
        return tokens[batch["root"]] if "root" in batch else self.pooled(tokens, batch)

    def pooled(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Node embeddings (N, D) as one vector per graph, (graphs, D)."""
        whose, count = membership(batch, len(tokens))
        return pool_nodes(tokens, whose, count, self.config.pool)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {"features": self.pooled(tokens, batch), "tokens": tokens}

    def default_preprocess(self) -> GraphPreprocess:
        """Features as they are, in the width that the model reads, with self loops; for molecules atoms and bonds."""
        config = self.config
        if config.encoder == "molecule":
            return GraphPreprocess("atoms", 2, self_loops=False)
        return GraphPreprocess(in_dim=config.in_dim, positions=config.positions, position_dim=config.position_dim)

    def input_in_words(self) -> str:
        return f"PyG `Batch` of graphs with `x` (nodes, {self.config.in_dim}) and `edge_index` (2, edges)"


def membership(batch: Batch | Data, nodes: int) -> tuple[Tensor, int]:
    """(graph of each node (N,), number of graphs) of a batch; a `Data` is one graph."""
    if isinstance(batch, Batch) and batch.batch is not None:
        return batch.batch, batch.num_graphs
    return torch.zeros(nodes, dtype=torch.long, device=batch["edge_index"].device), 1


def new_for(config: Any, preprocess: GraphPreprocess) -> None:
    """ConfigError when a model of this config cannot read what the preprocessing gives."""
    if config.in_dim != preprocess.in_dim:
        raise ConfigError(f"The node features are {preprocess.in_dim} wide and the model reads {config.in_dim}: set model.in_dim={preprocess.in_dim}.")
    if (config.encoder == "molecule") is not (preprocess.nodes == "atoms"):
        raise ConfigError(f"The encoder 'molecule' reads atoms, and only it does; model.encoder is {config.encoder!r} and the node features are {preprocess.nodes!r}.")
