"""Message passing in plain torch: sums over neighbours, softmax over a node's incoming edges, pooling of graphs.

Edges are `edge_index` (2, E), from row 0 to row 1; a node without incoming edges receives zeros.
"""

from typing import Literal

import torch
from torch import Tensor

Pool = Literal["mean", "sum", "max"]


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Rows of `values` (M, ...) summed into `size` rows by `index` (M,)."""
    return values.new_zeros(size, *values.shape[1:]).index_add_(0, index, values)


def neighbour_sum(x: Tensor, edge_index: Tensor) -> Tensor:
    """For each node the sum of the features (N, D) of the nodes from which an edge leads to it, (N, D)."""
    return scatter_sum(x.index_select(0, edge_index[0]), edge_index[1], len(x))


def edge_softmax(scores: Tensor, target: Tensor, size: int) -> Tensor:
    """Scores (E, H) as shares among the edges that lead to the same node `target` (E,)."""
    highest = scores.new_full((size, scores.shape[1]), -torch.inf)
    highest = highest.scatter_reduce_(0, target[:, None].expand_as(scores), scores.detach(), "amax")
    weights = (scores - highest.index_select(0, target)).exp()
    return weights / scatter_sum(weights, target, size).index_select(0, target)


def degrees(index: Tensor, size: int) -> Tensor:
    """How often each of `size` nodes occurs in `index` (E,), (size,) float32."""
    return torch.bincount(index, minlength=size).float()


def pool_nodes(x: Tensor, batch: Tensor, size: int, how: Pool) -> Tensor:
    """Node features (N, D) as one vector per graph, (size, D); `batch` (N,) says to which graph a node belongs. A graph without nodes gives zeros."""
    if how == "max":
        return x.new_zeros(size, x.shape[1]).scatter_reduce_(0, batch[:, None].expand_as(x), x, "amax", include_self=False)
    total = scatter_sum(x, batch, size)
    return total if how == "sum" else total / torch.bincount(batch, minlength=size).clamp(min=1)[:, None].to(x.dtype)
