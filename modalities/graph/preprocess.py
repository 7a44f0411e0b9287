"""Graph preprocessing: what is stored with a checkpoint so that inference sees the node features that training saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.utils import degree

from modalities.common.preprocess import Preprocess
from modalities.graph.checks import check_graph, clean_edges, count_nodes
from modalities.graph.files import read_graph
from modalities.graph.positions import laplacian, random_walk
from trainer.errors import ConfigError, DataError, shorten

WIDEST = 100_000
"""Node features at most."""
ATOM_TYPES, CHIRALITIES, BOND_TYPES, BOND_DIRECTIONS = 120, 3, 6, 3
"""Rows of the tables of networks for molecules; the last atom type stands for a hidden atom, the last two bond types for self loops and hidden bonds."""


@dataclass(frozen=True)
class GraphPreprocess(Preprocess):
    """Raw graphs -> one batch: node features made, edges cleaned (each once, self loops as said), graphs put side by side.

    A raw graph is a PyG `Data`, a networkx graph, a file (see `modalities.graph.files`), or a dict of arrays, with `edge_index` (2, E) and, as `nodes` needs them, `x` (N, F),
    `node_type` (N,), `num_nodes`; `edge_attr` (E, A).
    """

    type: ClassVar[str] = "graph"

    nodes: Literal["features", "types", "degree", "constant", "atoms"] = "features"
    """Where node features come from: given (x), the type of each node one-hot (node_type), its number of incoming edges one-hot (the last
    place for all higher ones), 1 for every node, or the numbers of atoms and bonds of a molecule (x and edge_attr as they are)."""
    in_dim: int = 16
    """Width of the node features that the model reads."""
    self_loops: bool = True
    """Every node gets an edge to itself, and no other self loops stay. Else all are taken away."""
    undirected: bool = True
    """Every edge leads both ways."""
    mean: tuple[float, ...] = ()
    """Per feature, of x; empty: x is taken as it is."""
    std: tuple[float, ...] = ()
    """Per feature, of x."""
    positions: Literal["none", "laplacian", "random_walk"] = "none"
    """What else is computed for each node (entry pe): eigenvectors of the Laplacian, or how likely a random walk comes back."""
    position_dim: int = 0
    """Numbers of these per node."""

    def __post_init__(self) -> None:
        if not 1 <= self.in_dim <= WIDEST:
            raise ConfigError(f"preprocess.in_dim must be between 1 and {WIDEST:,}, found {self.in_dim}.")
        if self.nodes == "constant" and self.in_dim != 1:
            raise ConfigError(f"preprocess.nodes='constant' gives one feature, and preprocess.in_dim is {self.in_dim}. Set it to 1.")
        if self.nodes == "atoms" and (self.in_dim != 2 or self.self_loops):
            raise ConfigError(f"preprocess.nodes='atoms' needs in_dim=2 and self_loops=False, found {self.in_dim} and {self.self_loops}.")
        if (self.positions == "none") is not (self.position_dim == 0) or self.position_dim < 0:
            raise ConfigError(f"preprocess.positions={self.positions!r} and .position_dim={self.position_dim} do not go together: give both or neither.")
        statistics = (*self.mean, *self.std)
        if statistics and (self.nodes != "features" or not len(self.mean) == len(self.std) == self.in_dim or min(self.std) <= 0 or not all(map(math.isfinite, statistics))):
            raise ConfigError(
                f"preprocess.mean and .std are for nodes='features' and need {self.in_dim} finite numbers each, std above 0; found {shorten(self.mean)} and {shorten(self.std)}."
            )

    def __call__(self, raw: Any) -> Batch:
        """A raw graph or several -> a batch. DataError for a graph that is damaged or has other features."""
        several = list(raw) if isinstance(raw, (list, tuple)) else [raw]
        if not several:
            raise DataError("There are no graphs to preprocess.")
        return collate([self.transform(graph, str(graph) if isinstance(graph, (str, Path)) else f"graph {i}") for i, graph in enumerate(several)])

    def transform(self, raw: Any, where: str = "the graph") -> Data:
        """One raw graph as the model reads it: x (N, in_dim) float32, edge_index (2, E) int64, what else it has (y, edge_attr, ...) as it was."""
        graph = check_graph(as_data(raw, where), where)
        nodes = count_nodes(graph, where)
        made = Data(**{key: value for key, value in graph.to_dict().items() if key not in ("edge_index", "x", "edge_attr", "num_nodes")})
        edges, values = clean_edges(graph, nodes, self.undirected)
        made.x = self._atoms(graph, values, where) if self.nodes == "atoms" else self._features(graph, edges, nodes, where)
        if self.positions != "none":
            made.pe = (laplacian if self.positions == "laplacian" else random_walk)(edges, nodes, self.position_dim)
        if self.self_loops:
            edges = torch.cat([edges, torch.arange(nodes).expand(2, -1)], dim=1)
            values = None if values is None else torch.cat([values, values.new_zeros(nodes, *values.shape[1:])])
        made.edge_index = edges
        if values is not None:
            made.edge_attr = values
        return made

    def _atoms(self, graph: Data, bonds: Tensor | None, where: str) -> Tensor:
        """Atoms (N, 2) int64, checked with the bonds (E, 2)."""
        atoms = graph.get("x")
        for key, values, limits in (("x", atoms, (ATOM_TYPES - 1, CHIRALITIES)), ("edge_attr", bonds, (BOND_TYPES - 2, BOND_DIRECTIONS))):
            if values is None or values.is_floating_point() or values.ndim != 2 or values.shape[1] != 2:
                found = "none" if values is None else f"{values.dtype} of shape {tuple(values.shape)}"
                raise DataError(f"{where}: a molecule needs {key} with 2 whole numbers in each row, found {found}.")
            if values.numel() and (int(values.min()) < 0 or (values >= values.new_tensor(limits)).any()):
                raise DataError(f"{where}: {key} must be at least 0 and below {limits}, found up to {tuple(values.amax(dim=0).tolist())} and down to {int(values.min())}.")
        return atoms.long()

    def _features(self, graph: Data, edges: Tensor, nodes: int, where: str) -> Tensor:
        """Node features (N, in_dim) float32."""
        if self.nodes == "constant":
            return torch.ones(nodes, 1)
        if self.nodes == "degree":
            return F.one_hot(degree(edges[1], nodes, torch.long).clamp(max=self.in_dim - 1), self.in_dim).float()
        key = {"features": "x", "types": "node_type"}[self.nodes]
        values = graph.get(key)
        if values is None:
            raise DataError(f"{where} has no {key}, which this model's preprocessing (nodes={self.nodes!r}) needs. It has: {', '.join(graph.keys()) or 'nothing'}.")
        if self.nodes == "types":
            if int(values.min()) < 0 or int(values.max()) >= self.in_dim:
                bad = int(((values < 0) | (values >= self.in_dim)).nonzero()[0])
                raise DataError(f"{where}: node_type of node {bad} is {int(values[bad])}; the model knows the types 0 to {self.in_dim - 1}.")
            return F.one_hot(values.long(), self.in_dim).float()
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or values.shape[1] != self.in_dim:
            raise DataError(f"{where} has node features of shape {tuple(values.shape)}; the model reads (nodes, {self.in_dim}).")
        values = values.float()
        return (values - torch.tensor(self.mean)) / torch.tensor(self.std) if self.mean else values

    def adapted(self, input_shape: tuple[int, ...] | None) -> "GraphPreprocess | None":
        """The same: graphs have no fixed shape."""
        return self

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        """Nothing to check: graphs have no fixed shape."""


def as_data(raw: Any, where: str) -> Data:
    """A raw graph in any of the forms that are taken. DataError for anything else."""
    if isinstance(raw, Data):
        return raw
    if isinstance(raw, (str, Path)):
        return read_graph(raw)
    if isinstance(raw, dict):
        return Data(**{str(key): torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" else value for key, value in raw.items()})
    if type(raw).__module__.partition(".")[0] == "networkx":
        from torch_geometric.utils import from_networkx

        return from_networkx(raw)
    raise DataError(f"{where} is a {type(raw).__name__}; expected a torch_geometric Data, a networkx graph, a file or a dict with edge_index.")


def collate(graphs: Sequence[Data]) -> Batch:
    """Graphs as one PyG `Batch`: nodes and edges one after another, `batch` (N,) says whose a node is. DataError when they do not have the same entries."""
    keys = {frozenset(graph.keys()) for graph in graphs}
    if len(keys) > 1:
        differing = set.union(*map(set, keys)) - set.intersection(*map(set, keys))
        raise DataError(f"The graphs of a batch must have the same entries; only some have {', '.join(sorted(differing))}.")
    return Batch.from_data_list(list(graphs))
