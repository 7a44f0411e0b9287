"""GraphMAE's objective: scaled cosine error of the features of hidden nodes (Hou et al. 2022, sections 3.2 and 3.3)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from modalities.graph.models.encoder import membership
from modalities.graph.models.graphmae import GraphMAE
from modalities.graph.objectives.draws import edge_draws, node_draws
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class GraphMAEObjectiveConfig:
    """What is hidden, and how the reconstruction is judged."""

    mask_rate: float = 0.5
    """Share of the nodes of a batch whose features are hidden and predicted, rounded down (at least one)."""
    replace_rate: float = 0.0
    """Share of the hidden nodes that get the features of another node instead of the mask token."""
    drop_edge_rate: float = 0.0
    """Share of the edges that the encoder does not see. All nodes get a self loop again, as in the official code also those that kept theirs."""
    loss: Literal["sce", "mse"] = "sce"
    """sce: (1 - cosine) ** alpha of predicted and true features. mse: mean squared error."""
    alpha: float = 2.0
    """Exponent of sce, at least 1: the larger, the less what is almost right counts."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate <= 1:
            raise ConfigError(f"objective.mask_rate must be above 0 and at most 1, found {self.mask_rate}.")
        for name in ("replace_rate", "drop_edge_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"objective.{name} must be at least 0 and below 1, found {getattr(self, name)}.")
        if self.alpha < 1:
            raise ConfigError(f"objective.alpha must be at least 1, found {self.alpha}.")

    def build(self, model: GraphMAE) -> "GraphMAEObjective":
        """The objective around a model."""
        return GraphMAEObjective(model, self)


class Hidden(NamedTuple):
    """Which nodes of a batch are changed, and how; all (k,) int64."""

    nodes: Tensor
    """Whose features are predicted."""
    token: Tensor
    """Those that hold the mask token."""
    noise: Tensor
    """Those that hold the features of `sources`."""
    sources: Tensor
    """Nodes whose features they hold."""


class GraphMAEObjective(Objective):
    """Loss = mean over the hidden nodes of a batch. Which are hidden follows from each graph's `sample_key`."""

    def __init__(self, model: GraphMAE, config: GraphMAEObjectiveConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def hide(self, batch: Batch) -> Hidden:
        """Choose nodes at random.

        Of m hidden ones int((1 - replace) * m) get the token and int(replace * m) other features; as both are rounded down one may stay as it is,
        and is predicted nevertheless. Where int(replace * m) is 0 none gets other features (the official code fails there).
        """
        draws = node_draws(batch, 3 if self.config.replace_rate else 1)  # (N, 3) or (N, 1)
        total = len(draws)
        count = max(int(self.config.mask_rate * total), 1)
        nodes = draws[:, 0].argsort()[:count]
        if not self.config.replace_rate:
            return Hidden(nodes, nodes, nodes[:0], nodes[:0])
        shuffled = nodes[draws[nodes, 1].argsort()]
        noisy = int(self.config.replace_rate * count)
        token = shuffled[: int((1 - self.config.replace_rate) * count)]
        return Hidden(nodes, token, shuffled[count - noisy :], draws[:, 2].argsort()[:noisy])

    def seen_edges(self, batch: Batch) -> Tensor:
        """The edges (2, E') that the encoder sees."""
        edges = batch["edge_index"]
        if not self.config.drop_edge_rate:
            return edges
        kept = edges[:, edge_draws(batch, 1)[:, 0] >= self.config.drop_edge_rate]
        loops = torch.arange(len(batch["x"]), device=edges.device).expand(2, -1)
        return torch.cat([kept, loops], dim=1)

    def error(self, predicted: Tensor, true: Tensor) -> Tensor:
        """The loss of predicted features (M, F)."""
        if self.config.loss == "mse":
            return F.mse_loss(predicted.float(), true.float())
        cosine = (F.normalize(predicted.float(), dim=-1) * F.normalize(true.float(), dim=-1)).sum(dim=-1)
        return (1 - cosine).pow(self.config.alpha).mean()

    def predict(self, batch: Batch, hidden: Hidden, edge_index: Tensor) -> Tensor:
        """Features (N, in_dim) that the model gives for all nodes."""
        x = self.model.corrupted(self.model.features(batch), hidden.token, hidden.noise, hidden.sources)
        return self.model.decode(batch, self.model.code(batch, x, edge_index), hidden.nodes)

    def forward(self, batch: Batch) -> Losses:
        hidden = self.hide(batch)
        predicted = self.predict(batch, hidden, self.seen_edges(batch))
        loss = self.error(predicted.index_select(0, hidden.nodes), self.model.features(batch).index_select(0, hidden.nodes))
        return Losses(loss, count=len(hidden.nodes))

    @torch.no_grad()
    def errors(self, batch: Batch) -> Tensor:
        """1 - cosine of the predicted and true features of every node, (N,); of nodes that are not hidden it is NaN."""
        hidden = self.hide(batch)
        predicted = self.predict(batch, hidden, batch["edge_index"])
        found = predicted.new_full((membership(batch, len(predicted))[0].shape[0],), torch.nan)
        found[hidden.nodes] = 1 - F.cosine_similarity(predicted[hidden.nodes], batch["x"][hidden.nodes], dim=-1)
        return found

    def export(self) -> GraphMAE:
        return self.model
