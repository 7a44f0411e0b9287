"""Encoders of PyG's layers: GraphSAGE, PNA, and GraphGPS with positions (Rampasek et al. 2022, arXiv 2205.12454)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import GINConv, GPSConv, PNAConv, SAGEConv

from modalities.graph.models.layers import ACTIVATIONS, new_norm
from trainer.errors import DataError

AGGREGATORS = ["mean", "min", "max", "std"]
SCALERS = ["identity", "amplification", "attenuation"]
"""Of PNA (Corso et al. 2020)."""


class Convolutions(nn.Module):
    """Convolutions, each with norm, activation and, with `residual`, a shortcut where the widths agree."""

    def __init__(self, new_layer: Callable[[int, int], nn.Module], inner: int, width: int, depth: int, norm: str, activation: str, residual: bool, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([new_layer(width if i else inner, width) for i in range(depth)])
        self.norms = nn.ModuleList([new_norm(norm, width) for _ in range(depth)])
        self.activations = nn.ModuleList([ACTIVATIONS[activation]() for _ in range(depth)])
        self.residual, self.dropout = residual, dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: Batch | None = None) -> list[Tensor]:
        """(N, inner), (2, E) -> what each layer gives. Features of edges are not read."""
        states = []
        for layer, norm, activation in zip(self.layers, self.norms, self.activations):
            out = activation(norm(layer(F.dropout(x, self.dropout, self.training), edge_index)))
            x = out + x if self.residual and out.shape == x.shape else out
            states.append(x)
        return states


def sage(inner: int, outer: int) -> nn.Module:
    """GraphSAGE's layer (Hamilton et al. 2017), the mean of the neighbours."""
    return SAGEConv(inner, outer)


def pna(mean_degree: int) -> Callable[[int, int], nn.Module]:
    """PNA's layer for graphs of a mean degree, which its scalers are relative to."""
    histogram = torch.zeros(mean_degree + 1, dtype=torch.long, device="cpu")
    histogram[-1] = 1
    return lambda inner, outer: PNAConv(inner, outer, AGGREGATORS, SCALERS, histogram)


class GPS(nn.Module):
    """Message passing (GIN) and attention among all nodes of a graph, side by side in each layer.

    `positions` (0: none) are read from batch["pe"] (N, positions), normed, mapped to a quarter of the width and put beside the mapped features.
    With `flip` (Laplacian eigenvectors, whose sign means nothing) signs are drawn at random per graph in training.
    """

    def __init__(self, inner: int, width: int, depth: int, heads: int, norm: str, dropout: float, attn_dropout: float, positions: int, flip: bool) -> None:
        super().__init__()
        share = width // 4 if positions else 0
        self.positions, self.flip, self.dropout = positions, flip, dropout
        self.features = nn.Linear(inner, width - share)
        if positions:
            self.pe_norm, self.pe = nn.BatchNorm1d(positions), nn.Linear(positions, share)
        norms = {"batchnorm": "batch_norm", "layernorm": "layer_norm", "none": None}
        local = lambda: GINConv(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)))  # noqa: E731
        self.layers = nn.ModuleList(
            [GPSConv(width, local(), heads, dropout, norm=norms[norm], attn_type="multihead", attn_kwargs={"dropout": attn_dropout}) for _ in range(depth)]
        )

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: Batch | None = None) -> list[Tensor]:
        """(N, inner), (2, E), the batch whose graphs and positions are read -> what each layer gives. Features of edges are not read."""
        whose = batch.batch if isinstance(batch, Batch) else None
        x = self.features(x)
        if self.positions:
            x = torch.cat([x, self.pe(self.pe_norm(self._positions(batch, whose)))], dim=1)
        states = []
        for layer in self.layers:
            x = layer(x, edge_index, whose)
            states.append(x)
        return states

    def _positions(self, batch: Batch | None, whose: Tensor | None) -> Tensor:
        pe = batch["pe"] if batch is not None and "pe" in batch else None
        if pe is None or pe.shape[1] != self.positions:
            found = "none" if pe is None else f"{pe.shape[1]}"
            raise DataError(f"This encoder reads {self.positions} positions per node (batch['pe']), found {found}. Make the batch with model.preprocess(graphs).")
        if not (self.training and self.flip):
            return pe
        signs = torch.randint(0, 2, (1 if whose is None else batch.num_graphs, self.positions), device=pe.device) * 2 - 1
        return pe * (signs if whose is None else signs.index_select(0, whose))
