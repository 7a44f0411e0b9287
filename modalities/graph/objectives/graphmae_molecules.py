"""GraphMAE's objective for molecules: scaled cosine error of the types of hidden atoms (Hou et al. 2022)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from modalities.graph.models.graphmae_molecules import GraphMAEMolecules
from modalities.graph.models.molecule_network import KINDS_OF_ATOMS
from modalities.graph.objectives.masks import hide_atoms, masked_nodes
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class GraphMAEMoleculesObjectiveConfig:
    """What is hidden, and how the reconstruction is judged."""

    mask_rate: float = 0.25
    """Of each molecule of n atoms int(rate * n + 1) are hidden."""
    alpha: float = 1.0
    """Exponent of (1 - cosine)."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_rate < 1 or self.alpha < 1:
            raise ConfigError(f"objective.mask_rate must be at least 0 and below 1, and objective.alpha at least 1, found {self.mask_rate} and {self.alpha}.")

    def build(self, model: GraphMAEMolecules) -> "GraphMAEMoleculesObjective":
        """The objective around a model."""
        return GraphMAEMoleculesObjective(model, self)


class GraphMAEMoleculesObjective(Objective):
    """Loss = mean over the hidden atoms of a batch. Which are hidden follows from each molecule's `sample_key`."""

    def __init__(self, model: GraphMAEMolecules, config: GraphMAEMoleculesObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def predict(self, batch: Batch, nodes: Tensor) -> Tensor:
        """Scores (M, 119) of the types of hidden nodes (M,)."""
        x = hide_atoms(self.model.features(batch), nodes)
        return self.model.decode(batch, self.model.combined(self.model.states(batch, x)), nodes).index_select(0, nodes)

    def error(self, scores: Tensor, types: Tensor) -> Tensor:
        """The loss of scores (M, 119) for the true types (M,)."""
        true = F.one_hot(types, KINDS_OF_ATOMS).float()
        return (1 - (F.normalize(scores.float(), dim=-1) * true).sum(dim=-1)).pow(self.config.alpha).mean()

    def forward(self, batch: Batch) -> Losses:
        nodes = masked_nodes(batch, self.config.mask_rate)
        scores, types = self.predict(batch, nodes), batch["x"][nodes, 0]
        right = (scores.detach().argmax(dim=1) == types).float().mean()
        return Losses(self.error(scores, types), {"accuracy": right}, count=len(nodes))

    def export(self) -> GraphMAEMolecules:
        return self.model
