"""Edge prediction: whether two nodes are joined, from the product of their embeddings (Hu et al. 2020; GAE and VGAE, Kipf and Welling 2016)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import VGAE

from modalities.graph.models.encoder import GraphEncoder, membership
from modalities.graph.objectives.draws import edge_draws
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective

TRIES = 4
"""Pairs that are drawn for each edge to find one that is not joined."""


@dataclass(frozen=True)
class EdgePredictionConfig:
    """What the embeddings are before their product is taken."""

    variational: bool = False
    """VGAE: mean and deviation from two linear layers, a sample of them, and the divergence from a normal distribution in the loss."""
    latent_dim: int = 16
    """Width of VGAE's code; only with `variational`."""

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or (self.latent_dim != 16 and not self.variational):
            raise ConfigError(f"objective.latent_dim={self.latent_dim} is the width of a variational code: at least 1, and 16 unless objective.variational is set.")

    def build(self, model: GraphEncoder) -> "EdgePrediction":
        """The objective around a model."""
        return EdgePrediction(model, self)


class EdgePrediction(Objective):
    """Loss = binary cross-entropy of the edges + that of as many pairs of nodes of one graph that are not joined (+ divergence / nodes)."""

    def __init__(self, model: GraphEncoder, config: EdgePredictionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        if config.variational:
            self.mean, self.log_deviation = (nn.Linear(model.width, config.latent_dim) for _ in range(2))
            self.vgae = VGAE(nn.Identity())

    def forward(self, batch: Batch) -> Losses:
        edges = batch["edge_index"]
        once = edges[0] < edges[1]
        positive, negative = edges[:, once], negatives(batch, once)
        tokens = self.model.tokens(batch)
        if not self.config.variational:
            loss, parts = self.error(tokens, positive, negative)
            return Losses(loss, parts, count=positive.shape[1])
        mean, deviation = self.mean(tokens), self.log_deviation(tokens).clamp(max=10)
        loss, parts = self.error(self.vgae.reparametrize(mean, deviation), positive, negative)
        divergence = self.vgae.kl_loss(mean, deviation) / len(tokens)
        return Losses(loss + divergence, {**parts, "divergence": divergence.detach()}, count=positive.shape[1])

    def error(self, tokens: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of pairs (2, P) that are joined and (2, Q) that are not, and the share that is told right."""
        yes, no = ((tokens.index_select(0, a) * tokens.index_select(0, b)).sum(dim=1).float() for a, b in (positive, negative))
        loss = mean_or_zero(F.softplus(-yes)) + mean_or_zero(F.softplus(no))
        right = torch.cat([yes.detach() > 0, no.detach() < 0]).float()
        return loss, {"accuracy": mean_or_zero(right)}

    def export(self) -> GraphEncoder:
        return self.model


def mean_or_zero(values: Tensor) -> Tensor:
    """The mean, 0 of none."""
    return values.sum() / max(values.numel(), 1)


def negatives(batch: Batch, chosen: Tensor) -> Tensor:
    """For each edge that is `chosen` (E,) a pair of nodes of its graph that are not joined, drawn by the graph's key, (2, Q); where none is found the edge has none."""
    edges, nodes = batch["edge_index"], len(batch["x"])
    whose, graphs = membership(batch, nodes)
    sizes = torch.bincount(whose, minlength=graphs)
    first = sizes.cumsum(0) - sizes
    of = whose.index_select(0, edges[0, chosen])
    draws = edge_draws(batch, 2 * TRIES)[chosen].unflatten(1, (2, TRIES))
    pairs = (draws * sizes.index_select(0, of)[:, None, None]).long() + first.index_select(0, of)[:, None, None]  # (P, 2, TRIES)
    taken = edges[0] * nodes + edges[1]
    good = ~torch.isin(pairs[:, 0] * nodes + pairs[:, 1], taken) & (pairs[:, 0] != pairs[:, 1])
    found = good.any(dim=1)
    which = good.float().argmax(dim=1)
    return pairs[torch.arange(len(pairs), device=edges.device), :, which][found].T
