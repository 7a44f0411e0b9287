"""GraphMAE for molecules (Hou et al., KDD 2022): atoms hidden in the GIN of Hu et al., their types decoded by one more layer.

Computes what THUDM/GraphMAE@b14f080 `chem/model.py:GNN, GNNDecoder` and `chem/pretraining.py` compute.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch_geometric.data import Batch

from modalities.common.linear import use_faster
from modalities.graph.models.bond_layers import BondGCN, BondGIN, with_loops
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.models.molecule_network import KINDS_OF_ATOMS
from trainer.errors import ConfigError


@dataclass(frozen=True)
class GraphMAEMoleculesConfig(GraphEncoderConfig):
    """The GIN of Hu et al. as it is published, and the decoder of atom types."""

    encoder: Literal["gin", "gat", "dotgat", "gcn", "sage", "pna", "gps", "molecule"] = "molecule"
    """Kind of layer: the one with bond features."""
    in_dim: int = 2
    """Atom and chirality."""
    embed_dim: int = 300
    """Width of the embeddings."""
    depth: int = 5
    """Layers."""
    activation: Literal["prelu", "relu", "elu", "gelu", "none"] = "relu"
    """After each layer but the last."""
    decoder: Literal["gin", "gcn", "linear"] = "gin"
    """One layer with bond embeddings of its own, or a linear layer of each atom alone, before which nothing is hidden again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder != "molecule":
            raise ConfigError(f"This model needs model.encoder='molecule', found {self.encoder!r}. Other encoders: graph/graphmae.")
        if self.jk == "concat":
            raise ConfigError("The decoder reads embed_dim numbers of each atom, and model.jk='concat' gives more. Use 'last', 'max' or 'sum'.")


class AtomDecoder(nn.Module):
    """From node embeddings to scores of atom types."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "linear":
            self.dec = nn.Linear(width, KINDS_OF_ATOMS)
            return
        self.activation = nn.PReLU()
        self.enc_to_dec = nn.Linear(width, width, bias=False)
        self.conv = BondGIN(width, KINDS_OF_ATOMS) if kind == "gin" else BondGCN(width, KINDS_OF_ATOMS, late=True)

    def forward(self, tokens: Tensor, edge_index: Tensor, edge_attr: Tensor, hidden: Tensor) -> Tensor:
        """(N, width), edges and bonds, hidden nodes (M,) -> (N, atom types)."""
        if self.kind == "linear":
            return self.dec(tokens)
        code = self.enc_to_dec(self.activation(tokens)).index_fill(0, hidden, 0.0)
        return self.conv(code, *with_loops(edge_index, edge_attr, len(tokens)))


class GraphMAEMolecules(GraphEncoder):
    """Input: a PyG `Batch` with atoms `x` (N, 2) and bonds `edge_attr` (E, 2) int64, as `preprocess` with nodes="atoms" makes it."""

    system = "graph/graphmae-molecules"
    config_class = GraphMAEMoleculesConfig
    parts = {"encoder.": "encoder", "decoder.": "decoder"}

    def __init__(self, config: GraphMAEMoleculesConfig) -> None:
        super().__init__(config)
        self.decoder = AtomDecoder(config.embed_dim, config.decoder)
        use_faster(self)

    def decode(self, batch: Batch, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Scores of the atom types of all nodes (N, 119) from their embeddings (N, width), those of `hidden` (M,) hidden again."""
        return self.decoder(tokens, batch["edge_index"], self.bonds(batch), hidden)
