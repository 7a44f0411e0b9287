"""Graph encoders by name, interchangeable under every objective.

`gin`, `gat`, `dotgat` and `gcn` are those of GraphMAE (see `layers`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from modalities.common.linear import use_faster
from modalities.common.model import Model
from modalities.graph.models.layers import require_heads
from modalities.graph.models.messages import Pool, pool_nodes
from modalities.graph.models.stacks import STACKS, StackConfig
from modalities.graph.preprocess import GraphPreprocess
from trainer.errors import ConfigError, DataError

HEADED = ("gat", "dotgat")
"""Encoders whose width is divided among heads."""


@dataclass(frozen=True)
class GraphEncoderConfig:
    """Which network turns node features into node embeddings, and how those of a graph become one vector."""

    encoder: Literal["gin", "gat", "dotgat", "gcn"] = "gin"
    """Kind of layer."""
    in_dim: int = 16
    """Width of the node features."""
    embed_dim: int = 64
    """Width of the embeddings, all heads together."""
    depth: int = 2
    """Layers."""
    num_heads: int = 4
    """Heads of attention, for the encoders that have such."""
    norm: Literal["none", "batchnorm", "layernorm"] = "batchnorm"
    """After each layer (gin: inside its MLP, too)."""
    activation: Literal["prelu", "relu", "elu", "gelu"] = "prelu"
    """After each layer."""
    residual: bool = False
    """Add the input of each layer to its output."""
    dropout: float = 0.0
    """Share of the features before each layer that are set to zero in training."""
    attn_dropout: float = 0.0
    """Share of the attention weights that are set to zero in training."""
    negative_slope: float = 0.2
    """Slope below zero of the scores of gat."""
    jk: Literal["last", "concat", "max", "sum"] = "last"
    """What the embedding is made of: the last layer, or all of them (jumping knowledge)."""
    pool: Pool = "mean"
    """How the embeddings of a graph's nodes become one vector."""

    def __post_init__(self) -> None:
        for name in ("in_dim", "embed_dim", "depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("dropout", "attn_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"model.{name} must be at least 0 and below 1, found {getattr(self, name)}.")
        if self.encoder in HEADED:
            require_heads(self.embed_dim, self.num_heads, "model.num_heads")
        elif self.attn_dropout:
            raise ConfigError(f"model.attn_dropout is for encoders with attention ({', '.join(HEADED)}), and model.encoder is {self.encoder!r}. Set it to 0.")

    @property
    def width(self) -> int:
        """Width of a node's embedding, after `jk`."""
        return self.embed_dim * (self.depth if self.jk == "concat" else 1)

    def build_encoder(self) -> nn.Module:
        """The network from (N, in_dim) and edges to the states after its layers."""
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

    def states(self, batch: Batch, x: Tensor | None = None, edge_index: Tensor | None = None) -> list[Tensor]:
        """What each layer gives for the nodes, [(N, embed_dim), ...]; with other features or edges than those of the batch, where given."""
        return self.encoder(self.features(batch) if x is None else x, batch["edge_index"] if edge_index is None else edge_index)

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
        """One vector per graph, (graphs, width)."""
        return self.pooled(self.tokens(batch), batch)

    def pooled(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Node embeddings (N, D) as one vector per graph, (graphs, D)."""
        whose, count = membership(batch, len(tokens))
        return pool_nodes(tokens, whose, count, self.config.pool)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {"features": self.pooled(tokens, batch), "tokens": tokens}

    def default_preprocess(self) -> GraphPreprocess:
        """Features as they are, in the width that the model reads, with self loops."""
        return GraphPreprocess(in_dim=self.config.in_dim)

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
