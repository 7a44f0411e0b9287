"""Mutual information of nodes and graphs: Infomax of Hu et al. (2020), and Deep Graph Infomax (Velickovic et al. 2019, arXiv 1809.10341)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn.inits import uniform

from modalities.graph.models.encoder import GraphEncoder, membership
from modalities.graph.models.messages import pool_nodes
from modalities.graph.objectives.draws import node_draws
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class InfomaxConfig:
    """What a node is told apart from."""

    negatives: Literal["graphs", "shuffled"] = "graphs"
    """graphs: nodes against the summary of the next graph of the batch (Hu et al.). shuffled: nodes of the same graph with shuffled features against
    its summary (Deep Graph Infomax), which a single graph allows, too."""

    def build(self, model: GraphEncoder) -> "Infomax":
        """The objective around a model."""
        return Infomax(model, self)


class Infomax(Objective):
    """Loss = binary cross-entropy of node and summary that belong together + of those that do not. A summary is the sigmoid of the mean embedding."""

    def __init__(self, model: GraphEncoder, config: InfomaxConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.discriminator_weight = nn.Parameter(torch.empty(model.width, model.width))
        uniform(model.width, self.discriminator_weight)

    def forward(self, batch: Batch) -> Losses:
        if self.config.negatives == "graphs" and membership(batch, len(batch["x"]))[1] < 2:
            raise ConfigError("Infomax tells graphs of a batch apart and found one only. Use a larger batch, or objective.negatives='shuffled'.")
        tokens = self.model.tokens(batch)
        if self.config.negatives == "graphs":
            loss, parts = self.error(tokens, tokens, batch, shift=1)
        else:
            whose, _ = membership(batch, len(tokens))
            order = (node_draws(batch, 1)[:, 0].double() + whose).argsort()  # within each graph
            loss, parts = self.error(tokens, self.model.combined(self.model.states(batch, self.model.features(batch)[order])), batch, shift=0)
        return Losses(loss, parts, count=len(tokens))

    def error(self, tokens: Tensor, others: Tensor, batch: Batch, shift: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `tokens` with the summary of their graph, and of `others` with that of the graph `shift` places further on."""
        whose, graphs = membership(batch, len(tokens))
        summaries = pool_nodes(tokens, whose, graphs, "mean").sigmoid() @ self.discriminator_weight
        yes = (tokens * summaries.index_select(0, whose)).sum(dim=1).float()
        no = (others * summaries.roll(-shift, 0).index_select(0, whose)).sum(dim=1).float()
        right = torch.cat([yes.detach() > 0, no.detach() < 0]).float().mean()
        return F.softplus(-yes).mean() + F.softplus(no).mean(), {"accuracy": right}

    def export(self) -> GraphEncoder:
        return self.model
