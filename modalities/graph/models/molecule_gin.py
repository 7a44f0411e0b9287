"""The GIN for molecules of Hu et al. (ICLR 2020, arXiv 1905.12265): atoms and bonds are looked up, and every layer adds its own bond embeddings.

Computes what snap-stanford/pretrain-gnns@8b20528 `chem/model.py:GNN` computes and names its tensors alike. Its jumping knowledge "sum" takes one
row only and "max" breaks the gradient; here both are what their names say.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.graph.models.messages import degrees, scatter_sum
from modalities.graph.preprocess import ATOM_TYPES, BOND_DIRECTIONS, BOND_TYPES, CHIRALITIES

MASKED_ATOM, SELF_LOOP, MASKED_BOND = 119, 4, 5
"""What stands for a hidden atom, a self loop, a hidden bond."""
KINDS_OF_ATOMS, KINDS_OF_BONDS = 119, 4
"""Classes that are predicted."""


def with_loops(edge_index: Tensor, edge_attr: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Edges (2, E + nodes) and bonds (E + nodes, 2) with a self loop at every node."""
    loops = torch.arange(nodes, device=edge_index.device).expand(2, -1)
    bonds = edge_attr.new_tensor([SELF_LOOP, 0]).expand(nodes, -1)
    return torch.cat([edge_index, loops], dim=1), torch.cat([edge_attr, bonds])


class BondLayer(nn.Module):
    """What layers with bond embeddings share."""

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
    """An MLP of the sum of the messages; the self loop stands for the node itself."""

    def __init__(self, width: int, outer: int) -> None:
        super().__init__(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, outer))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """(N, width), edges with self loops, bonds -> (N, outer)."""
        return self.mlp(scatter_sum(self.messages(x, edge_index, edge_attr), edge_index[1], len(x)))


class BondGCN(BondLayer):
    """A linear layer of the messages, weighted by the degrees of both ends. A decoder of GraphMAE for molecules."""

    def __init__(self, width: int, outer: int) -> None:
        super().__init__(width)
        self.linear = nn.Linear(width, outer)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """(N, width), edges with self loops, bonds -> (N, outer)."""
        root = degrees(edge_index[0], len(x)).rsqrt().to(x.dtype)
        weight = root.index_select(0, edge_index[0]) * root.index_select(0, edge_index[1])
        return self.linear(scatter_sum(self.messages(x, edge_index, edge_attr) * weight[:, None], edge_index[1], len(x)))


class MoleculeGIN(nn.Module):
    """Atoms (N, 2) int64 (type, chirality) and bonds (E, 2) int64 (type, direction), each bond in both directions -> states of the nodes."""

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.x_embedding1, self.x_embedding2 = nn.Embedding(ATOM_TYPES, width), nn.Embedding(CHIRALITIES, width)
        for table in (self.x_embedding1, self.x_embedding2):
            nn.init.xavier_uniform_(table.weight)
        self.gnns = nn.ModuleList([BondGIN(width, width) for _ in range(depth)])
        self.batch_norms = nn.ModuleList([nn.BatchNorm1d(width) for _ in range(depth)])
        self.dropout = dropout

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor, batch: object = None) -> list[Tensor]:
        """The embedding of the atoms and what each layer gives, all (N, width)."""
        edges, bonds = with_loops(edge_index, edge_attr, len(x))
        states = [self.x_embedding1(x[:, 0]) + self.x_embedding2(x[:, 1])]
        for i, (layer, norm) in enumerate(zip(self.gnns, self.batch_norms), 1):
            h = norm(layer(states[-1], edges, bonds))
            states.append(F.dropout(h if i == len(self.gnns) else F.relu(h), self.dropout, self.training))
        return states
