"""Attribute masking (Hu et al., ICLR 2020, arXiv 1905.12265): the kind of hidden nodes, and perhaps of hidden bonds, from the graph around them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch

from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.models.molecule_network import KINDS_OF_ATOMS, KINDS_OF_BONDS
from modalities.graph.objectives.masks import hide_atoms, hide_bonds, masked_nodes
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class AttributeMaskingConfig:
    """What is hidden."""

    mask_rate: float = 0.15
    """Of each graph of n nodes int(rate * n + 1) are hidden."""
    mask_edge: bool = False
    """Hide the bonds of hidden atoms, too, and predict their kinds."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_rate < 1:
            raise ConfigError(f"objective.mask_rate must be at least 0 and below 1, found {self.mask_rate}.")

    def build(self, model: GraphEncoder) -> "AttributeMasking":
        """The objective around a model."""
        return AttributeMasking(model, self)


class AttributeMasking(Objective):
    """Loss = cross-entropy of the kinds of hidden nodes (+ that of hidden bonds).

    The kind is the type of an atom, or of one-hot node features the place of the one. `linear_pred_atoms`, `linear_pred_bonds` and,
    of one-hot features, `mask_token` are the objective's own and not published.
    """

    def __init__(self, model: GraphEncoder, config: AttributeMaskingConfig) -> None:
        super().__init__()
        self.molecules = model.config.encoder == "molecule"
        if config.mask_edge and not self.molecules:
            raise ConfigError(f"objective.mask_edge hides bonds, which only the encoder 'molecule' reads; model.encoder is {model.config.encoder!r}.")
        self.model, self.config = model, config
        self.linear_pred_atoms = nn.Linear(model.width, KINDS_OF_ATOMS if self.molecules else model.config.in_dim)
        if config.mask_edge:
            self.linear_pred_bonds = nn.Linear(model.width, KINDS_OF_BONDS)
        if not self.molecules:
            self.mask_token = nn.Parameter(torch.zeros(1, model.config.in_dim))

    def hidden(self, batch: Batch, nodes: Tensor) -> Tensor:
        """Node features in which those of `nodes` are hidden."""
        x = self.model.features(batch)
        return hide_atoms(x, nodes) if self.molecules else x.index_copy(0, nodes, self.mask_token.to(x.dtype).expand(len(nodes), -1))

    def kinds(self, batch: Batch, nodes: Tensor) -> Tensor:
        """What is to be predicted, (M,) int64."""
        x = batch["x"].index_select(0, nodes)
        return x[:, 0] if self.molecules else x.argmax(dim=1)

    def forward(self, batch: Batch) -> Losses:
        nodes = masked_nodes(batch, self.config.mask_rate)
        bonds, edges = None, None
        if self.config.mask_edge:
            bonds, edges = hide_bonds(batch["edge_index"], self.model.bonds(batch), nodes)
        tokens = self.model.combined(self.model.states(batch, self.hidden(batch, nodes), edge_attr=bonds))
        scores, kinds = self.linear_pred_atoms(tokens.index_select(0, nodes)).float(), self.kinds(batch, nodes)
        loss = F.cross_entropy(scores, kinds)
        parts = {"accuracy": (scores.detach().argmax(dim=1) == kinds).float().mean()}
        if edges is not None:
            of_bonds = self.bond_loss(tokens, batch["edge_index"][:, edges], batch["edge_attr"][edges, 0])
            loss, parts["bonds"] = loss + of_bonds, of_bonds.detach()
        return Losses(loss, parts, count=len(nodes))

    def bond_loss(self, tokens: Tensor, ends: Tensor, kinds: Tensor) -> Tensor:
        """Cross-entropy of the kinds (K,) of bonds with these ends (2, K); 0 where there are none."""
        scores = self.linear_pred_bonds(tokens.index_select(0, ends[0]) + tokens.index_select(0, ends[1])).float()
        return F.cross_entropy(scores, kinds, reduction="sum") / max(len(kinds), 1)

    def export(self) -> GraphEncoder:
        return self.model
