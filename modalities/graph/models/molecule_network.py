"""The network for molecules of Hu et al. (ICLR 2020, arXiv 1905.12265): atoms are looked up, and every layer adds its own bond embeddings.

Computes what snap-stanford/pretrain-gnns@8b20528 `chem/model.py:GNN` computes and names its tensors alike. Its jumping knowledge "sum" takes one
row only and "max" breaks the gradient; here both are what their names say.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from modalities.graph.models.bond_layers import bond_layer, with_loops
from modalities.graph.preprocess import ATOM_TYPES, CHIRALITIES

MASKED_ATOM, MASKED_BOND = 119, 5
"""What stands for a hidden atom, a hidden bond."""
KINDS_OF_ATOMS, KINDS_OF_BONDS = 119, 4
"""Classes that are predicted."""


class MoleculeNetwork(nn.Module):
    """Atoms (N, 2) int64 (type, chirality) and bonds (E, 2) int64 (type, direction), each bond in both directions -> states of the nodes."""

    def __init__(self, width: int, depth: int, dropout: float, layer: str, heads: int) -> None:
        super().__init__()
        self.x_embedding1, self.x_embedding2 = nn.Embedding(ATOM_TYPES, width), nn.Embedding(CHIRALITIES, width)
        for table in (self.x_embedding1, self.x_embedding2):
            nn.init.xavier_uniform_(table.weight)
        self.gnns = nn.ModuleList([bond_layer(layer, width, heads) for _ in range(depth)])
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
