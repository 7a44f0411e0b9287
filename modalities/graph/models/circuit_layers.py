"""Layers of PreRoutGNN (Zhong et al., AAAI 2024, arXiv 2403.00012): MLPs along edges, gated sums and extremes at nodes, attention on lookup tables."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.graph.circuits import AXIS, TABLES
from modalities.graph.models.blocks import anew, in_blocks, width_of
from modalities.graph.models.messages import pool_nodes, scatter_sum

SLOPE = 0.2
"""Of every LeakyReLU."""


def mlp(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers from each width to the next, with LeakyReLU (and dropout, where there is some) between them."""
    layers: list[nn.Module] = []
    for inner, outer in zip(widths, widths[1:]):
        if layers:
            layers += [nn.LeakyReLU(SLOPE, inplace=True), *([nn.Dropout(dropout)] if dropout else [])]
        layers.append(nn.Linear(inner, outer))
    return nn.Sequential(*layers)


def along(x: Tensor, edges: Tensor, features: Tensor | None = None) -> Tensor:
    """What the MLP of an edge reads: the nodes (N, D) where it begins and where it ends, and features of its own."""
    ends = [x.index_select(0, edges[0]), x.index_select(0, edges[1])]
    return torch.cat(ends if features is None else [*ends, features], dim=1)


def gated(made: Tensor) -> Tensor:
    """(E, 1 + D), a gate and what goes through it -> (E, D)."""
    gate, messages = made.tensor_split([1], dim=1)
    return gate.sigmoid() * messages


class GatedConv(nn.Module):
    """Messages along edges, each times a gate of its own; their mean, sum, least and largest and the node itself give the new node."""

    def __init__(self, inner: int, outer: int, edge: int, hidden: int, message: int, dropout: float) -> None:
        super().__init__()
        self.message = mlp(2 * inner + edge, hidden, hidden, hidden, 1 + 4 * message, dropout=dropout)
        self.reduce = mlp(inner + 4 * message, hidden, hidden, hidden, outer, dropout=dropout)

    def forward(self, x: Tensor, edges: Tensor, features: Tensor) -> Tensor:
        """(N, inner), (2, E), (E, edge) -> (N, outer). A node without incoming edges receives zeros."""
        messages = in_blocks(lambda rows: gated(self.message(along(x, edges[:, rows], features[rows]))), len(features), width_of(self.message))
        mean, total, least, largest = messages.chunk(4, dim=1)
        target, size = edges[1], len(x)
        pooled = [pool_nodes(mean, target, size, "mean"), scatter_sum(total, target, size), -pool_nodes(-least, target, size, "max"), pool_nodes(largest, target, size, "max")]
        return in_blocks(lambda rows: self.reduce(torch.cat([part[rows] for part in (x, *pooled)], dim=1)), size, width_of(self.reduce))


class GatedStack(nn.Module):
    """Gated convolutions; those between the first and the last see the input again and add what they make to what they got."""

    def __init__(self, inner: int, outer: int, depth: int, width: int, edge: int, hidden: int, message: int, dropout: float) -> None:
        super().__init__()
        rest = (edge, hidden, message, dropout)
        self.first = GatedConv(inner, width, *rest)
        self.middle = nn.ModuleList(GatedConv(width + inner, width, *rest) for _ in range(depth - 2))
        self.last = GatedConv(width, outer, *rest)

    def forward(self, x: Tensor, edges: Tensor, features: Tensor) -> Tensor:
        """(N, inner), (2, E), (E, edge) -> (N, outer)."""

        def through(layer: GatedConv, state: Tensor) -> Tensor:
            return anew(lambda state: layer(state, edges, features), state, len(features), width_of(layer.message))

        state = through(self.first, x)
        for layer in self.middle:
            state = through(layer, torch.cat([state, x], dim=1)) + state
        return through(self.last, state)


class NetConv(nn.Module):
    """One exchange along the wires of all nets: every sink hears its driver, every driver all of its sinks."""

    def __init__(self, width: int, hidden: int, pool: int, edge: int, dropout: float) -> None:
        super().__init__()
        self.to_sinks = mlp(2 * width + edge, *[hidden] * 4, width, dropout=dropout)
        self.to_drivers = mlp(2 * width + edge, *[hidden] * 3, 1 + 2 * pool, dropout=dropout)
        self.drivers = mlp(width + 2 * pool, *[hidden] * 3, width, dropout=dropout)

    def forward(self, x: Tensor, wires: Tensor, features: Tensor, drivers: Tensor) -> Tensor:
        """(N, width), (2, W), (W, 2), numbers (M,) of the pins that drive nets -> (N, width); other pins that no wire reaches get zeros."""
        to_sinks = in_blocks(lambda rows: self.to_sinks(along(x, wires[:, rows], features[rows])), len(features), width_of(self.to_sinks))
        heard = scatter_sum(to_sinks, wires[1], len(x))
        told = in_blocks(lambda rows: gated(self.to_drivers(along(x, wires[:, rows].flip(0), -features[rows]))), len(features), width_of(self.to_drivers))
        total, largest = told.chunk(2, dim=1)
        pooled = torch.cat([x, scatter_sum(total, wires[0], len(x)), pool_nodes(largest, wires[0], len(x), "max")], dim=1)
        made = in_blocks(lambda rows: self.drivers(pooled.index_select(0, drivers[rows])), len(drivers), width_of(self.drivers))
        return heard.index_copy(0, drivers, made.to(heard.dtype))


class TableAttention(nn.MultiheadAttention):
    """Attention of one query for each lookup table on the table's entries: keys and values are single numbers.

    With one number u for each key and v for each value, q (u k + b) = u (q k) + constant, and the constant leaves the softmax as it is; the sum over the
    values is the weighted mean of v times the value vector. So no vector is made for any of the 49 entries; the result is that of the usual attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, kdim=1, vdim=1, batch_first=True)

    @property
    def width_inside(self) -> int:
        """Numbers that are computed for an arc: each head's shares of all entries, before and after the softmax."""
        return 2 * TABLES * self.num_heads * AXIS * AXIS

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:  # type: ignore[override]
        """(A, T, width), (A, T, K), (A, T, K) -> (A, T, width)."""
        of_query, _, of_value = self.in_proj_bias.chunk(3)
        heads = (self.num_heads, self.head_dim)
        asked = F.linear(query, self.q_proj_weight, of_query).unflatten(2, heads)
        slope = (asked * self.k_proj_weight.view(heads)).sum(dim=3) / math.sqrt(self.head_dim)  # (A, T, heads)
        shares = (slope[..., None] * keys[:, :, None]).softmax(dim=3)
        read = shares.to(values.dtype) @ values[..., None]  # (A, T, heads, 1)
        return self.out_proj((read * self.v_proj_weight.view(heads) + of_value.view(heads)).flatten(2))
