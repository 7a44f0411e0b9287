"""The layers of Hu et al. (ICLR 2020, arXiv 1905.12265) for molecules: each adds its own embeddings of bonds to what comes along them.

Each computes what snap-stanford/pretrain-gnns@8b20528 `chem/model.py` computes and names its tensors alike. `forward(x, edge_index, edge_attr)`:
(N, width), edges with self loops (2, E), bonds (E, 2) -> (N, outer). The self loop stands for the node itself.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.graph.models.messages import degrees, edge_softmax, pool_nodes, scatter_sum
from modalities.graph.preprocess import BOND_DIRECTIONS, BOND_TYPES

SELF_LOOP = 4
"""The bond of a node with itself."""
SLOPE = 0.2
"""Below zero, of the scores of attention."""


def with_loops(edge_index: Tensor, edge_attr: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Edges (2, E + nodes) and bonds (E + nodes, 2) with a self loop at every node."""
    loops = torch.arange(nodes, device=edge_index.device).expand(2, -1)
    bonds = edge_attr.new_tensor([SELF_LOOP, 0]).expand(nodes, -1)
    return torch.cat([edge_index, loops], dim=1), torch.cat([edge_attr, bonds])


class BondLayer(nn.Module):
    """What all of them share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge_embedding1, self.edge_embedding2 = nn.Embedding(BOND_TYPES, width), nn.Embedding(BOND_DIRECTIONS, width)
        for table in (self.edge_embedding1, self.edge_embedding2):
            nn.init.xavier_uniform_(table.weight)

    def messages(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """Source and bond of each edge, (E, width)."""
        bonds = self.edge_embedding1.weight[:, None] + self.edge_embedding2.weight[None]  # (types, directions, width): few rows
        which = edge_attr[:, 0] * BOND_DIRECTIONS + edge_attr[:, 1]
        return x.index_select(0, edge_index[0]) + bonds.flatten(0, 1).index_select(0, which)


class BondGIN(BondLayer):
    """An MLP of the sum of the messages."""

    def __init__(self, width: int, outer: int) -> None:
        super().__init__(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, outer))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.mlp(scatter_sum(self.messages(x, edge_index, edge_attr), edge_index[1], len(x)))


class BondGCN(BondLayer):
    """A sum of the messages, weighted by the degrees of both ends, of linearly mapped nodes.

    `late`: the linear layer follows the sum, as in GraphMAE's decoder.
    """

    def __init__(self, width: int, outer: int, late: bool = False) -> None:
        super().__init__(width if late else outer)
        self.linear, self.late = nn.Linear(width, outer), late

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        root = degrees(edge_index[0], len(x)).rsqrt().to(x.dtype)
        weight = root.index_select(0, edge_index[0]) * root.index_select(0, edge_index[1])
        messages = self.messages(x if self.late else self.linear(x), edge_index, edge_attr)
        out = scatter_sum(messages * weight[:, None], edge_index[1], len(x))
        return self.linear(out) if self.late else out


class BondGAT(BondLayer):
    """Attention, the mean over its heads. As in the official code an edge's weight is its share among the edges that leave the same node."""

    def __init__(self, width: int, outer: int, heads: int) -> None:
        super().__init__(heads * outer)
        self.heads = heads
        self.weight_linear, self.bias = nn.Linear(width, heads * outer), nn.Parameter(torch.zeros(outer))
        self.att = nn.Parameter(torch.empty(1, heads, 2 * outer))
        nn.init.xavier_uniform_(self.att)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        source, target = edge_index
        values = self.weight_linear(x)
        messages = self.messages(values, edge_index, edge_attr).unflatten(1, (self.heads, -1))
        ends = torch.cat([values.index_select(0, target).unflatten(1, (self.heads, -1)), messages], dim=2)
        shares = edge_softmax(F.leaky_relu((ends * self.att).sum(dim=2), SLOPE), source, len(x))
        return scatter_sum(messages * shares[:, :, None], target, len(x)).mean(dim=1) + self.bias


class BondSAGE(BondLayer):
    """The mean of the messages of linearly mapped nodes, scaled to length 1."""

    def __init__(self, width: int, outer: int) -> None:
        super().__init__(outer)
        self.linear = nn.Linear(width, outer)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        mean = pool_nodes(self.messages(self.linear(x), edge_index, edge_attr), edge_index[1], len(x), "mean")
        return F.normalize(mean, dim=1)


def bond_layer(kind: str, width: int, heads: int) -> BondLayer:
    """A layer by name, as wide as its input; `heads` is read by "gat" only."""
    if kind == "gat":
        return BondGAT(width, width, heads)
    return {"gin": BondGIN, "gcn": BondGCN, "graphsage": BondSAGE}[kind](width, width)
