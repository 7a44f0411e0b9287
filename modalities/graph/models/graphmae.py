"""GraphMAE (Hou et al., KDD 2022, arXiv 2205.10803): node features hidden, encoded, hidden again in the code, decoded by a graph network.

Computes what THUDM/GraphMAE@b14f080 `graphmae/models/edcoder.py:PreModel` computes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from modalities.common.linear import use_faster
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.models.layers import require_heads
from modalities.graph.models.stacks import STACKS, StackConfig
from trainer.errors import ConfigError

PLAIN = ("mlp", "linear")
"""Decoders that look at one node alone. What was hidden is not hidden again before them."""
ATTENTION = ("gat", "dotgat")


@dataclass(frozen=True)
class GraphMAEConfig(GraphEncoderConfig):
    """An encoder and the decoder that gives back the node features."""

    decoder: Literal["gat", "dotgat", "gin", "gcn", "mlp", "linear"] = "gin"
    """Kind of the decoder: one layer of a graph network, or a network of each node alone."""
    decoder_heads: int = 1
    """Heads of a decoder with attention; each gives features of its own, so only one head fits the input."""
    concat_hidden: bool = False
    """Decode what all layers of the encoder gave, side by side, instead of the last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder == "molecule":
            raise ConfigError("The features of atoms are numbers of kinds; use graph/graphmae-molecules for the encoder 'molecule'.")
        if self.decoder_heads != 1:
            raise ConfigError(f"model.decoder_heads={self.decoder_heads} would give {self.decoder_heads} times as many features as the input has. It must be 1.")
        if self.decoder in ATTENTION:
            require_heads(self.embed_dim, self.decoder_heads, "model.decoder_heads")


class GraphMAE(GraphEncoder):
    """Input as that of `GraphEncoder`, whose encoder it has; `decode` gives node features (N, in_dim)."""

    system = "graph/graphmae"
    config_class = GraphMAEConfig
    parts = {"encoder.": "encoder", "": "decoder"}

    def __init__(self, config: GraphMAEConfig) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.enc_mask_token = nn.Parameter(torch.zeros(1, config.in_dim))
        self.encoder_to_decoder = nn.Linear(width * (config.depth if config.concat_hidden else 1), width, bias=False)
        self.decoder = self._new_decoder()
        use_faster(self)

    def _new_decoder(self) -> nn.Module:
        config = self.config
        width, outer = config.embed_dim, config.in_dim
        if config.decoder == "mlp":
            return nn.Sequential(nn.Linear(width, width), nn.PReLU(), nn.Dropout(0.2), nn.Linear(width, outer))
        if config.decoder == "linear":
            return nn.Linear(width, outer)
        return STACKS[config.decoder](
            StackConfig(
                width, width, outer, 1, 1, 1, config.norm, config.activation, config.residual, config.dropout,
                config.attn_dropout, config.negative_slope, encoding=False,
            )
        )  # fmt: skip

    def corrupted(self, x: Tensor, token_nodes: Tensor, noise_nodes: Tensor, noise_sources: Tensor) -> Tensor:
        """Features (N, in_dim) in which some nodes hold the mask token and some the features of others."""
        out = x.clone()
        out[noise_nodes] = x[noise_sources]
        out[token_nodes] = self.enc_mask_token.to(x.dtype)
        return out

    def code(self, batch: Batch, x: Tensor, edge_index: Tensor) -> Tensor:
        """The decoder's input (N, embed_dim) before anything in it is hidden again."""
        states = self.states(batch, x, edge_index)
        return self.encoder_to_decoder(torch.cat(states, dim=1) if self.config.concat_hidden else states[-1])

    def decode(self, batch: Batch, code: Tensor, hidden: Tensor) -> Tensor:
        """Node features (N, in_dim) from a code whose rows `hidden` (M,) are hidden again. The decoder sees all edges of the batch."""
        if self.config.decoder in PLAIN:
            return self.decoder(code)
        return self.decoder(code.index_fill(0, hidden, 0.0), batch["edge_index"])[-1]
