"""Graphons: the symmetric function W: [0, 1]^2 -> [0, 1] that a group of graphs may be drawn from, fitted as a step function.

Node i has a place u_i drawn evenly from [0, 1]; nodes i and j are joined with probability W(u_i, u_j).
Nodes are put in the order of falling degree, and a method makes steps of the mean of the ordered adjacency matrices.
The estimators of W2PGNN (Cao et al., KDD 2023), in which `SAS` smooths so much by default that hardly more than the density is left; `tv_weight` corrects it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812
from torch_geometric.data import Data

from modalities.graph.barycenters import BARYCENTERS, FUSED, SMOOTHED, BarycenterConfig, barycenter
from modalities.graph.block_approximation import approximate
from modalities.graph.checks import check_graph, clean_edges
from modalities.graph.denoising import total_variation
from trainer.errors import ConfigError, DataError, did_you_mean

Method = Literal["SAS", "USVT", "LG", "MC", "SBA", "GWB", "FGWB", "SGWB", "SFGWB"]
METHODS: tuple[Method, ...] = get_args(Method)
OPTIONS: dict[str, tuple[str, ...]] = {
    "tv_weight": ("SAS",), "threshold": ("USVT",), "falling_gaps": ("LG",), "likeness": ("SBA",), "order": ("SBA",),
    **dict.fromkeys(("outer_iterations", "inner_iterations", "beta"), BARYCENTERS), "edge_share": FUSED, "bending": SMOOTHED,
}  # fmt: skip
"""Option -> methods that it changes."""
LARGEST = 5000
"""Nodes of a graph to which a graphon is fitted; its adjacency matrix is held dense."""


@dataclass(frozen=True)
class GraphonConfig:
    """How a graphon is fitted."""

    method: Method = "SAS"
    """SAS: means of square blocks, smoothed. USVT: large singular values. LG: blocks of nodes between gaps of the degrees. MC: low rank. SBA: blocks of nodes that are joined
    alike. GWB, FGWB, SGWB, SFGWB: Gromov-Wasserstein barycentre, with F degrees count, too, with S it is smoothed."""
    tv_weight: float | None = None
    """SAS: weight of the total variation. None: the side of a block, 4 or more, as in the official code, which leaves little but the density; 0.01 to 0.2 keeps structure."""
    threshold: float = 0.3
    """USVT: singular values below this times the root of the number of nodes are left out."""
    falling_gaps: bool = False
    """LG: cut where the degrees fall most, as Chan and Airoldi have it. The official code, which is followed without it, cuts where they fall least."""
    likeness: float = 0.1
    """SBA: nodes whose distance is below this share a block."""
    order: int = 0
    """SBA: seed of the order in which nodes are put into blocks. The public code leaves it to chance."""
    barycenter: BarycenterConfig = field(default_factory=BarycenterConfig)
    """How barycentres are computed."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"{self.method!r} is no method of fitting graphons.{did_you_mean(self.method, METHODS)} Methods: {', '.join(METHODS)}.")
        for name, methods in OPTIONS.items():
            holder = self.barycenter if hasattr(self.barycenter, name) else self
            if self.method not in methods and getattr(holder, name) != getattr(type(holder), name):
                raise ConfigError(f"{name} changes only the method {' and '.join(methods)}, and the method is {self.method}.")
        if (self.tv_weight is not None and not 0 < self.tv_weight < math.inf) or not 0 <= self.threshold < math.inf or not 0 <= self.likeness < math.inf or self.order < 0:
            raise ConfigError(
                f"tv_weight must be above 0, threshold, likeness and order at least 0, found {self.tv_weight}, {self.threshold}, {self.likeness} and {self.order}."
            )


def adjacency(graph: Data, where: str = "graph") -> np.ndarray:
    """The (N, N) matrix of 0 and 1 of a graph, symmetric, without self loops. DataError, beginning with `where`, for a damaged or too large graph."""
    nodes = check_graph(graph, where).num_nodes
    if nodes > LARGEST:
        raise DataError(f"{where} has {nodes:,} nodes; graphons are fitted to graphs of up to {LARGEST:,}. Take neighbourhoods of its nodes, or leave it out.")
    edges, _ = clean_edges(graph, nodes, undirected=True)
    matrix = np.zeros((nodes, nodes))
    matrix[edges[0].numpy(), edges[1].numpy()] = 1
    return matrix


def align(matrix: np.ndarray, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The adjacency with nodes in the order of falling degree, and their degrees as shares of the sum, (N,); both filled up with zeros to `size`.

    Nodes of one degree come in the order in which numpy's default sorting, turned round, leaves them, as in the official code. That order is the same on all processors with
    AVX2 or AVX-512 for up to 256 nodes, and another one elsewhere, where graphons come out a little different.
    """
    nodes = len(matrix)
    degrees = 0.5 * (matrix.sum(axis=0) + matrix.sum(axis=1))
    degrees = degrees / max(degrees.sum(), 1e-300)
    order = np.argsort(degrees)[::-1]
    more = (size or nodes) - nodes
    return np.pad(matrix[np.ix_(order, order)], (0, more)), np.pad(degrees[order], (0, more))


def fit(matrices: Sequence[np.ndarray], config: GraphonConfig = GraphonConfig()) -> np.ndarray:
    """The step function (K, K) of the graphs whose adjacency matrices are given. DataError when there is none, or none of them has an edge."""
    if not any(matrix.any() for matrix in matrices):
        raise DataError(f"A graphon needs at least one graph with an edge, found {len(matrices)} graphs without.")
    if config.method in BARYCENTERS:
        aligned = [align(matrix) for matrix in matrices]
        return barycenter(aligned, blocks(max(map(len, matrices))), config.method, config.barycenter)
    size = max(map(len, matrices))
    if config.method == "SBA":
        return approximate([align(matrix, size)[0] for matrix in matrices], config.likeness, config.order)
    total = np.zeros((size, size))
    for matrix in matrices:
        total += align(matrix, size)[0]
    return ESTIMATORS[config.method](total, len(matrices), config)


def block_side(nodes: int) -> int:
    """Nodes of a block."""
    return int(math.log2(nodes) + 1)


def blocks(nodes: int) -> int:
    """Number of blocks; what does not fill a last one is left over."""
    return nodes // block_side(nodes)


def _smoothed(total: np.ndarray, count: int, config: GraphonConfig) -> np.ndarray:
    side = block_side(len(total))
    pooled = F.avg_pool2d(torch.from_numpy(total / count)[None], side)[0].numpy()
    return total_variation(pooled, config.tv_weight or float(side))


def _singular_values(total: np.ndarray, count: int, config: GraphonConfig) -> np.ndarray:
    u, values, v = np.linalg.svd(total / count)
    values[values < config.threshold * math.sqrt(len(total))] = 0
    return np.clip(u * values @ v, 0, 1)


def _degree_gaps(total: np.ndarray, count: int, config: GraphonConfig) -> np.ndarray:
    """Block means (N, N). Which of equal gaps are taken hangs on their last bits, so they are computed in float32, as the official code does it."""
    nodes = len(total)
    degrees = (torch.from_numpy(total).float() / count).sum(dim=1) / max(nodes - 1, 1)
    if config.falling_gaps:
        degrees = -degrees.sort(descending=True).values
    cuts = (torch.topk(degrees.diff(), blocks(nodes) - 1).indices + 1).sort().values.tolist()
    edges = np.array([0, *cuts, nodes])
    sizes = np.diff(edges)
    sums = np.add.reduceat(np.add.reduceat(total / count, edges[:-1], axis=0), edges[:-1], axis=1)
    return np.repeat(np.repeat(sums / np.outer(sizes, sizes), sizes, axis=0), sizes, axis=1)


def _low_rank(total: np.ndarray, count: int, config: GraphonConfig) -> np.ndarray:
    rank = len(total) // max(int(math.log(len(total))), 1)
    u, values, v = np.linalg.svd(2 * (total / count - 0.5))
    values[rank:] = 0
    return np.clip((u * values @ v + 1) / 2, 0, 1)


ESTIMATORS: dict[str, Callable[[np.ndarray, int, GraphonConfig], np.ndarray]] = {"SAS": _smoothed, "USVT": _singular_values, "LG": _degree_gaps, "MC": _low_rank}
"""Method -> function of (sum of the aligned adjacency matrices, how many they are, config)."""


def resize(steps: np.ndarray, side: int) -> np.ndarray:
    """A step function (K, K) at another resolution, (side, side): bilinear, between the centres of the steps."""
    return F.interpolate(torch.from_numpy(np.ascontiguousarray(steps))[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0].numpy()


def sample(steps: np.ndarray, nodes: int, seed: int = 0) -> Data:
    """A graph drawn from a step function (K, K); its nodes in the order of their places. ConfigError for no nodes."""
    if nodes < 1:
        raise ConfigError(f"A graph has at least one node, found {nodes}.")
    rng = np.random.default_rng(seed)
    places = np.sort(rng.random(nodes))
    step = np.minimum((places * len(steps)).astype(int), len(steps) - 1)
    drawn = np.triu(rng.random((nodes, nodes)) < steps[np.ix_(step, step)], 1)
    ends = np.stack(np.nonzero(drawn | drawn.T))
    return Data(edge_index=torch.from_numpy(ends), num_nodes=nodes)
