"""GraphCL (You et al., NeurIPS 2020, arXiv 2010.13902): two changed views of a graph shall be more alike than those of different graphs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch

from modalities.graph.models.encoder import GraphEncoder, membership
from modalities.graph.objectives.context_prediction import cut, steps_from
from modalities.graph.objectives.draws import edge_draws, node_draws
from modalities.graph.objectives.masks import hide_atoms, ranks
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective

VIEWS = ("none", "drop_nodes", "drop_edges", "mask_attributes", "subgraph")


@dataclass(frozen=True)
class GraphCLConfig:
    """How the views differ, and how they are compared."""

    views: tuple[str, ...] = ("drop_nodes", "drop_edges", "mask_attributes", "subgraph")
    """What a view of a batch may be, one of them at random for each: nodes or edges left out, attributes hidden, or only nodes near a random one kept ("none": the graph itself)."""
    ratio: float = 0.2
    """Share of the nodes or edges of a graph that is changed."""
    temperature: float = 0.2
    """Divides the similarities (molecules: 0.1)."""

    def __post_init__(self) -> None:
        unknown = [view for view in self.views if view not in VIEWS]
        if unknown or not self.views:
            raise ConfigError(f"objective.views must be some of {', '.join(VIEWS)}, found {', '.join(unknown) or 'none'}.")
        if not 0 < self.ratio < 1 or self.temperature <= 0:
            raise ConfigError(f"objective.ratio must be between 0 and 1 and objective.temperature above 0, found {self.ratio} and {self.temperature}.")

    def build(self, model: GraphEncoder) -> "GraphCL":
        """The objective around a model."""
        return GraphCL(model, self)


class GraphCL(Objective):
    """Loss = mean over graphs of -log(exp(s_ii / t) / sum over the other graphs j of exp(s_ij / t)), s the cosine of the projected views.

    As in the official code the graph itself is not among those of the denominator. The projector is not published.
    """

    def __init__(self, model: GraphEncoder, config: GraphCLConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.projector = nn.Sequential(nn.Linear(model.width, model.width), nn.ReLU(inplace=True), nn.Linear(model.width, model.width))

    def forward(self, batch: Batch) -> Losses:
        if membership(batch, len(batch["x"]))[1] < 2:
            raise ConfigError("GraphCL compares the graphs of a batch and found one only. Use a larger train.batch_size, or a smaller train.accumulate.")
        draws = node_draws(batch, 6)
        first, second = (self.view(batch, draws[:, 3 * k], draws[:, 3 * k + 1], int(draws[0, 3 * k + 2] * len(self.config.views)), k) for k in range(2))
        a, b = (F.normalize(self.projector(self.model.embed(view)).float(), dim=1) for view in (first, second))
        similar = a @ b.T / self.config.temperature
        others = similar.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), -torch.inf)
        right = (similar.detach().argmax(dim=1) == torch.arange(len(a), device=a.device)).float().mean()
        return Losses((others.logsumexp(dim=1) - similar.diagonal()).mean(), {"accuracy": right})

    def view(self, batch: Batch, draws: Tensor, more: Tensor, which: int, number: int) -> Batch:
        """The batch changed in one way; `draws` and `more` (N,) are random numbers of its nodes."""
        name = self.config.views[which]
        whose, graphs = membership(batch, len(draws))
        if name in ("none", "drop_edges"):
            if name == "none":
                return batch
            view = batch.clone()
            kept = edge_draws(batch, 2)[:, number] >= self.config.ratio
            view.edge_index = batch["edge_index"][:, kept]
            if "edge_attr" in batch:
                view.edge_attr = batch["edge_attr"][kept]
            return view
        changed = (self.config.ratio * torch.bincount(whose, minlength=graphs)).long()
        if name == "mask_attributes":
            hidden = (ranks(draws, whose) < changed.index_select(0, whose)).nonzero()[:, 0]
            view = batch.clone()
            view.x = hide_atoms(batch["x"], hidden) if self.model.config.encoder == "molecule" else batch["x"].index_fill(0, hidden, 0.0)
            return view
        order = draws
        if name == "subgraph":  # near nodes first, in random order among those of one distance
            centres = (ranks(more, whose) == 0).nonzero()[:, 0]
            distance = steps_from(batch["edge_index"], centres, len(draws), len(draws))
            order = (torch.where(distance < 0, len(draws), distance) + draws) / (len(draws) + 2)
        kept = ranks(order, whose) < (torch.bincount(whose, minlength=graphs) - changed).index_select(0, whose)
        return cut(batch, kept).batch

    def export(self) -> GraphEncoder:
        return self.model
